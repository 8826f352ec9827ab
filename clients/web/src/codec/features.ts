import type { Header } from './header'
import { readLevels } from './levels'
import { clip, LAYER, MAX_CLASS, MAX_INPUT, MAX_VALUE, UNIT } from './limits'
import { runNet } from './nets'
import { type CodecFile, contextSize, type Group, groupsOf } from './prior'
import { NONE, type Pyramid, type Stage } from './pyramid'
import { baseStep, channelSteps, log2 } from './quantiser'
import type { RangeDecoder } from './range'
import { type Layer, layerOf, note } from './refinement'

/** Groups of channels where a payload brings its own scales. */
const OWN_SCALES_GROUPS = 8

/** What a picture's tokens are decoded with, the same for all its parts, and the tokens' values. */
export interface Canvas {
  readonly header: Header
  readonly codec: CodecFile
  readonly groups: readonly Group[]
  /** The quantiser's depth; of a layered payload, its base's. */
  readonly depth: number
  /** Each channel's quantiser step, and log2 of it, in units of 1/256. */
  readonly steps: Int32Array
  readonly logSteps: Int32Array
  /** The token whose values each merged token has while others are predicted from it; itself where it was sent. */
  readonly source: Int32Array
  /** [tokens, channels] in units of 1/256. */
  readonly values: Int16Array
  readonly block: Block
  /** What a refinement must know of the base; null where there is none. */
  readonly layer: Layer | null
}

/** Room for the tokens of one stage, and the levels of one group of their channels. */
interface Block {
  readonly tokens: Int32Array
  /** Of each token `stride` numbers: its context, then its own channels; all within +-4096. */
  readonly inputs: Float64Array
  readonly stride: number
  readonly outputs: Int32Array
  readonly means: Int32Array
  readonly classes: Uint8Array
  readonly levels: Int32Array
}

/** An empty canvas. `target` says which token's row each token shows. */
export function canvasOf(header: Header, codec: CodecFile, target: Int32Array, pyramid: Pyramid): Canvas {
  const { channels, width } = header
  const layered = header.order === 'layer'
  const depth = header.depth - (layered ? LAYER : 0)
  const steps = channelSteps(codec.step, depth)
  const groups = groupsOf(channels, header.scales ? OWN_SCALES_GROUPS : codec.nets[0].length)
  return {
    header,
    codec,
    groups,
    depth,
    steps,
    logSteps: steps.map(log2),
    source: target.map((from, token) => sourceOf(token, from)),
    values: new Int16Array(target.length * channels),
    block: blockOf(pyramid, channels, Math.max(...groups.map(({ start, end }) => end - start))),
    layer: layered ? layerOf(channelSteps(codec.step, header.depth), target.length * channels) : null,
  }

  function sourceOf(token: number, from: number): number {
    const part = pyramid.partOf[from]
    if (header.order !== 'band' || part === 0 || part === pyramid.partOf[token]) return from
    const y = Math.floor(token / width)
    const x = token % width
    return (y - (y % 2)) * width + x - (x % 2)
  }
}

function blockOf(pyramid: Pyramid, channels: number, groupSize: number): Block {
  const tokens = Math.max(...pyramid.parts.flat().map((stage) => stage.tokens.length))
  const stride = contextSize(channels) + channels
  return {
    tokens: new Int32Array(tokens),
    inputs: new Float64Array(tokens * stride),
    stride,
    outputs: new Int32Array(tokens * (2 * groupSize + 3)),
    means: new Int32Array(tokens * groupSize),
    classes: new Uint8Array(tokens * groupSize),
    levels: new Int32Array(tokens * groupSize),
  }
}

/** Decode one part's tokens; null: it was lost, and they become what is predicted (section 5). */
export function fillPart(canvas: Canvas, stages: readonly Stage[], decoder: RangeDecoder | null): void {
  for (const stage of stages) {
    const count = openBlock(canvas, stage)
    if (count > 0) canvas.groups.forEach((group, number) => fillGroup(canvas, stage.kind, group, number, count, decoder))
    copyMerged(canvas, stage)
  }
}

/** Take the stage's tokens that were sent into the block, with their contexts; gives their number. */
function openBlock({ header, depth, source, values, block }: Canvas, { tokens, neighbours }: Stage): number {
  const { height, width, channels } = header
  const { inputs, stride } = block
  const logBase = log2(baseStep(depth))
  let count = 0
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]
    if (source[token] !== token) continue
    let at = count * stride
    block.tokens[count++] = token
    for (let k = 4 * i; k < 4 * i + 4; k++) {
      const from = neighbours[k] * channels
      if (neighbours[k] === NONE) inputs.fill(0, at, at + channels)
      else for (let c = 0; c < channels; c++) inputs[at + c] = clip(values[from + c], MAX_INPUT)
      at += channels
    }
    inputs[at] = Math.floor((Math.floor(token / width) * 2 * UNIT) / height) - UNIT
    inputs[at + 1] = Math.floor(((token % width) * 2 * UNIT) / width) - UNIT
    inputs[at + 2] = logBase
  }
  return count
}

/** Decode a group of channels of the block's tokens. */
function fillGroup(canvas: Canvas, kind: number, group: Group, number: number, count: number, decoder: RangeDecoder | null): void {
  const { header, codec, steps, values, block, layer } = canvas
  const { channels, scales } = header
  const { tokens, inputs, stride, means, classes, levels } = block
  const { start, end } = group
  const size = end - start
  if (scales) predictMean(canvas, scales.subarray(kind * channels, (kind + 1) * channels), group, count)
  else predictByNet(canvas, kind, number, group, count)
  if (decoder) readLevels(decoder, classes, count * size, codec.edges, levels)
  else levels.fill(0, 0, count * size)

  const own = contextSize(channels)
  for (let i = 0, at = 0; i < count; i++) {
    for (let c = start; c < end; c++, at++) {
      const value = clip(means[at] + levels[at] * steps[c], MAX_VALUE)
      values[tokens[i] * channels + c] = value
      if (layer) note(layer, tokens[i] * channels + c, levels[at], value)
      inputs[i * stride + own + c] = clip(value, MAX_INPUT)
    }
  }
}

/** Means of the four neighbours, and the header's own classes. */
function predictMean({ header, block, layer }: Canvas, scales: Uint8Array, { start, end }: Group, count: number): void {
  const { channels } = header
  const { tokens, inputs, stride, means, classes } = block
  for (let i = 0, at = 0; i < count; i++) {
    for (let c = start; c < end; c++, at++) {
      const first = i * stride + c
      const sum = inputs[first] + inputs[first + channels] + inputs[first + 2 * channels] + inputs[first + 3 * channels]
      means[at] = (sum + 2) >> 2
      classes[at] = scales[c]
      if (layer) layer.classes[tokens[i] * channels + c] = scales[c] + LAYER
    }
  }
}

/** Means and classes that the group's net gives. */
function predictByNet({ header, codec, logSteps, block, layer }: Canvas, kind: number, number: number, { start, end }: Group, count: number): void {
  const { tokens, inputs, stride, outputs, means, classes } = block
  const net = codec.nets[kind][number]
  const size = end - start
  runNet(net, inputs, stride, count, outputs)
  for (let i = 0, at = 0; i < count; i++) {
    const row = i * net.second.units
    for (let c = 0; c < size; c++, at++) {
      means[at] = clip(outputs[row + c], MAX_INPUT)
      classes[at] = classOf(outputs[row + size + c], logSteps[start + c])
      if (layer) layer.classes[tokens[i] * header.channels + start + c] = classOf(outputs[row + size + c], layer.logSteps[start + c])
    }
  }
}

/** The class of a scale relative to a step, from the logarithms of both. */
function classOf(logScale: number, logStep: number): number {
  return Math.max(0, Math.min(MAX_CLASS, (logScale - logStep + 1056) >> 6))
}

function copyMerged({ header, source, values }: Canvas, { tokens }: Stage): void {
  const { channels } = header
  for (const token of tokens) {
    const from = source[token] * channels
    if (source[token] !== token) values.copyWithin(token * channels, from, from + channels)
  }
}
