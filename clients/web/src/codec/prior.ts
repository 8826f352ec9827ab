import { crc32 } from './bytes'
import { ensure } from './error'
import { levelEdges, logisticCounts, SYMBOLS, TABLES } from './levels'
import { KINDS, MAX_CHANNELS, UNIT } from './limits'
import { type Net, readNet } from './nets'
import { refinementEdges } from './refinement'
import { openTensors, readTensor } from './safetensors'
import { MAX_VARIANCE } from './transform'

/** What a backbone's features are decoded with. */
export interface CodecFile {
  readonly channels: number
  /** Each channel's quantiser step relative to the others, in units of 1/256. */
  readonly step: Int32Array
  /** The net of each kind and group of channels; empty where a payload must bring its own scales. */
  readonly nets: readonly (readonly Net[])[]
  /** The edges of the 49 symbols of each table of levels, [24, 50]. */
  readonly edges: Int32Array
  /** The edges of a refinement's symbols. */
  readonly refinement: Int32Array
  /** Classes of the variance of each transform coefficient, [channels, height, width]; null where nobody measured them. */
  readonly variance: { readonly height: number; readonly width: number; readonly classes: Int16Array } | null
  /** CRC-32 of all numbers of the file, on which the backbone's fingerprint depends. */
  readonly digest: number
}

/** Channels that are decoded together. */
export interface Group {
  readonly start: number
  readonly end: number
}

const FORMAT = 'megen-codec-3'
const MAX_STEP = 1024

/** The channels of each of `count` groups in order, without the empty ones. */
export function groupsOf(channels: number, count: number): Group[] {
  const edge = (group: number) => Math.floor((channels * group) / count)
  return Array.from({ length: count }, (_, i) => ({ start: edge(i), end: edge(i + 1) })).filter(({ start, end }) => end > start)
}

/** What a net knows of a token beside its own channels: four neighbours of it, its place, and the step. */
export function contextSize(channels: number): number {
  return 4 * channels + 3
}

/** What takes the place of a codec file where there is none: equal steps, no nets, and the logistic table of levels. */
export function plainCodec(channels: number): CodecFile {
  const step = new Int32Array(channels).fill(UNIT)
  const counts = logisticCounts()
  const edges = { edges: levelEdges(counts), refinement: refinementEdges(counts) }
  return { channels, step, nets: [], ...edges, variance: null, digest: digestOf([step, counts]) }
}

/** Read a codec file (section 6); refused where a sum could overflow 32 bits. */
export function readCodecFile(data: Uint8Array): CodecFile {
  const file = openTensors(data)
  ensure(file.metadata['format'] === FORMAT, `not a codec file of format ${FORMAT}`)
  const step = readTensor(file, 'step', 'I32', [null])
  const channels = step.numbers.length
  ensure(channels >= 1 && channels <= MAX_CHANNELS, `the codec file is of ${channels} channels: 1 to ${MAX_CHANNELS} can be`)
  ensure(
    step.numbers.every((size) => size >= 1 && size <= MAX_STEP),
    `a step of the codec file lies outside 1 to ${MAX_STEP}`,
  )
  const counts = readTensor(file, 'levels', 'I32', [TABLES, SYMBOLS])

  let groupCount = 0
  while (file.tensors.has(`0.${groupCount}.w1`)) groupCount++
  ensure(groupCount <= channels, `the codec file has nets for ${groupCount} groups of ${channels} channels`)
  const groups = groupsOf(channels, groupCount)
  const kinds = groupCount > 0 ? Array.from({ length: KINDS }, (_, kind) => kind) : []
  const files = kinds.map((kind) =>
    groups.map(({ start, end }, number) => readNet(file, `${kind}.${number}`, contextSize(channels) + start, 2 * (end - start))),
  )
  const numbers = [step.numbers, ...files.flat().flatMap((net) => net.numbers), counts.numbers]
  const variance = file.tensors.has('variance') ? readTensor(file, 'variance', 'I16', [channels, null, null]) : null
  if (variance) {
    const fits = variance.numbers.every((value) => Math.abs(value) <= MAX_VARIANCE)
    ensure(fits, `a variance of the codec file lies outside -${MAX_VARIANCE} to ${MAX_VARIANCE}`)
    numbers.push(variance.numbers)
  }
  return {
    channels,
    step: step.numbers,
    nets: files.map((row) => row.map(({ net }) => net)),
    edges: levelEdges(counts.numbers),
    refinement: refinementEdges(Int32Array.from(counts.numbers)),
    variance: variance && { height: variance.shape[1], width: variance.shape[2], classes: variance.numbers },
    digest: digestOf(numbers),
  }
}

function digestOf(arrays: readonly (Int16Array | Int32Array)[]): number {
  return arrays.reduce((crc, numbers) => crc32(new Uint8Array(new Int32Array(numbers).buffer), crc), 0)
}
