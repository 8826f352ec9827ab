import { combined, demodulate } from './analog'
import { crc32, hex32 } from './bytes'
import type { Symbols } from './container'
import { ensure } from './error'
import { type Canvas, canvasOf, fillPart } from './features'
import { type Grid, type Header, readHeader } from './header'
import { UNIT } from './limits'
import { readMap } from './map'
import { type CodecFile, plainCodec } from './prior'
import { type Pyramid, pyramidOf } from './pyramid'
import { RangeDecoder } from './range'
import { refine } from './refinement'
import { estimatesOf, type Selection, selectionOf } from './transform'

/** What the picture decoder's graph is given. */
export interface Features {
  /** [rows, channels], of the tokens that were sent. */
  readonly rows: Float32Array
  /** The row of each token, [height * width]. */
  readonly mergeMap: Int32Array
  /** Of each token the deviations of noise and quantiser, 1 where it merged, 0.5 where its row was lost: [height * width, 4]. */
  readonly degradation: Float32Array
  readonly height: number
  readonly width: number
  readonly channels: number
}

/** Header and map of a payload, and its feature parts as they arrive. */
export interface Picture {
  readonly header: Header
  /** The token whose row each token shows, itself where it was sent. */
  readonly target: Int32Array
  /** Null where the features are analog symbols. */
  readonly digital: Digital | null
  readonly codec: CodecFile
  /** The transform coefficients that were sent, where they are the features. */
  readonly selection: Selection | null
}

interface Digital {
  readonly pyramid: Pyramid
  readonly canvas: Canvas
  /** Each part's body; null: it has not arrived. */
  readonly bodies: (Uint8Array | null)[]
  /** Which parts must be decoded, or predicted, anew. */
  readonly stale: boolean[]
}

const PART_CRC_BYTES = 3
/** Columns of `degradation`. */
const STATES = 4
/** How far a predicted token is taken to be from the true one. */
const LOST = 0.5

/**
 * Read header and map of a payload. No codec file (null): payloads must bring their own scales.
 *
 * `grid` is the only one that is accepted, which bounds the time that any payload takes; null: any.
 */
export function openPicture(header: Uint8Array, map: Uint8Array, codec: CodecFile | null, backbone: number, grid: Grid | null): Picture {
  const read = readHeader(header)
  const { height, width, channels } = read
  const mine = hex32(backbone)
  ensure(read.backbone === backbone, `the payload is of backbone ${hex32(read.backbone)}, this receiver decodes ${mine}`)
  const fits = grid === null || (height === grid[0] && width === grid[1])
  ensure(fits, `the payload has a grid of ${height} x ${width}, this receiver decodes ${grid?.join(' x ')}`)
  const own = codec ?? plainCodec(channels)
  ensure(own.channels === channels, `the payload has ${channels} channels, this receiver decodes ${own.channels}`)
  const target = readMap(map, read)
  const selection = read.reduction === 'transform' ? selectionOf(read, own) : null
  const known = { header: read, target, codec: own, selection }
  if (read.depth === 0) return { ...known, digital: null }

  ensure(read.scales !== null || own.nets.length > 0, "the payload needs nets, which this receiver's codec file does not have")
  const pyramid = pyramidOf(read)
  const bodies = pyramid.parts.map(() => null)
  const stale = pyramid.parts.map(() => true)
  return { ...known, digital: { pyramid, canvas: canvasOf(read, own, target, pyramid), bodies, stale } }
}

/** The number of feature parts that a picture has when all have arrived. */
export function partCount({ digital }: Picture): number {
  return digital?.bodies.length ?? 0
}

/** Take in a feature part that arrived, in any order. After a refusal the whole picture is refused: use it no more. */
export function addPart({ header, digital }: Picture, number: number, part: Uint8Array): void {
  ensure(digital !== null && number in digital.bodies, `the payload has no feature part ${number}`)
  const { bodies, stale } = digital
  const body = part.subarray(0, -PART_CRC_BYTES)
  const start = crc32(Uint8Array.of(number), header.crc)
  const [low, middle, high] = part.subarray(body.length)
  const crc = low | (middle << 8) | (high << 16)
  const whole = part.length >= PART_CRC_BYTES && (crc32(body, start) & 0xffffff) === crc
  ensure(whole, `feature part ${number} fails its checksum: it was changed in transit`)
  bodies[number] = body
  const alone = header.order !== 'stage' && number > 0
  stale.fill(true, number, alone ? number + 1 : undefined)
}

/** Decode what is new of the parts that have arrived, as far as that can be before the others are there. */
export function decodeArrived(picture: Picture): void {
  const { digital } = picture
  if (digital === null || digital.bodies[0] === null) return
  usableOf(picture, digital).forEach((body, number) => {
    if (body !== null) decodePart(picture, digital, number, body)
  })
}

/** Each part's body; null where it has not arrived, or by stage where one before it has not, from which it is predicted. */
function usableOf({ header }: Picture, { bodies }: Digital): (Uint8Array | null)[] {
  const missing = bodies.indexOf(null)
  const end = header.order === 'stage' && missing >= 0 ? missing : bodies.length
  return bodies.map((body, number) => (number < end ? body : null))
}

/** Decode a part, or with null predict it, where that was not done yet. */
function decodePart({ target }: Picture, { pyramid, canvas, stale }: Digital, number: number, body: Uint8Array | null): void {
  if (!stale[number]) return
  const decoder = body && new RangeDecoder(body, `feature part ${number}`)
  if (!canvas.layer || number === 0) fillPart(canvas, pyramid.parts[number], decoder)
  else if (decoder) refine(canvas.layer, sentOf(number), canvas.codec.refinement, decoder, canvas.values)
  stale[number] = false

  /** The tokens of a part of a layer that were sent. */
  function sentOf(number: number): number[] {
    return [...pyramid.partOf.keys()].filter((token) => pyramid.partOf[token] === number && target[token] === token)
  }
}

/** Features of the parts that have arrived; what has not is predicted. Only what is new since the last call is decoded. */
export function digitalFeatures(picture: Picture): Features {
  const { header, target, digital } = picture
  ensure(digital !== null, 'the payload is analog: it has no feature parts')
  const { pyramid, canvas, bodies } = digital
  ensure(bodies[0] !== null, 'the base of the features was lost: nothing can be predicted from it')
  const usable = usableOf(picture, digital)
  usable.forEach((body, number) => decodePart(picture, digital, number, body))

  const { channels } = header
  const rows = new Float32Array(header.rows * channels)
  let at = 0
  target.forEach((from, token) => {
    if (from !== token) return
    for (let c = 0; c < channels; c++) rows[at++] = canvas.values[token * channels + c] / UNIT
  })
  const coarse = deviationOf(canvas.steps)
  const fine = canvas.layer ? deviationOf(canvas.layer.steps) : coarse
  const features = featuresOf(header, target, rows)
  target.forEach((from, token) => {
    const lost = usable[pyramid.partOf[from]] === null
    features.degradation[STATES * token + 1] = lost ? coarse : fine
    if (lost && !canvas.layer) features.degradation[STATES * token + 3] = LOST
  })
  return features

  function deviationOf(steps: Int32Array): number {
    return Math.sqrt(steps.reduce((sum, step) => sum + (step / UNIT) ** 2, 0) / channels / 12)
  }
}

/** Features from a picture's analog symbols. */
export function analogFeatures({ header, target, codec, selection }: Picture, symbols: Symbols | null): Features {
  const joint = combined(symbols, header.rows * header.channels)
  if (selection) {
    const scale = selection.gains.map((gain) => header.amplitude / gain)
    const values = scale.map((size, i) => joint.iq[i] * Math.SQRT2 * size)
    const noises = scale.map((size, i) => joint.variance[i >> 1] * size ** 2)
    const { rows, error } = estimatesOf(header, codec, selection, values, noises)
    const features = featuresOf(header, target, rows)
    for (let token = 0; token < target.length; token++) features.degradation[STATES * token + 1] = error
    return features
  }
  const features = featuresOf(header, target, new Float32Array(0))
  const counts = new Int32Array(header.rows)
  for (const row of features.mergeMap) counts[row]++
  const { rows, deviation } = demodulate(joint, header.amplitude, counts, header.channels)
  features.mergeMap.forEach((row, token) => (features.degradation[STATES * token] = deviation[row]))
  return { ...features, rows }
}

/** Features of which nothing but what merged is known to be amiss. */
function featuresOf({ height, width, channels }: Header, target: Int32Array, rows: Float32Array): Features {
  const rowOf = new Int32Array(target.length)
  let count = 0
  target.forEach((from, token) => {
    if (from === token) rowOf[token] = count++
  })
  const degradation = new Float32Array(STATES * target.length)
  target.forEach((from, token) => {
    if (from !== token) degradation[STATES * token + 2] = 1
  })
  return { rows, mergeMap: target.map((from) => rowOf[from]), degradation, height, width, channels }
}
