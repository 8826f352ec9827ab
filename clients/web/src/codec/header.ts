import { crc32, viewOf } from './bytes'
import { ensure } from './error'
import { KINDS, LAYER, MAX_AMPLITUDE, MAX_CHANNELS, MAX_CLASS, MAX_DEPTH, MAX_SIDE } from './limits'

/** What a feature part holds: eight token rows (a band), one stage of the pyramid, or what refines eight rows (a layer). */
export type Order = 'band' | 'stage' | 'layer'

/** What made the features fewer: tokens that merged, or transform coefficients that were left out. */
export type Reduction = 'merging' | 'transform'

/** Height and width of a token grid. */
export type Grid = readonly [height: number, width: number]

/** What must be known before the rest can be read (section 1). */
export interface Header {
  /** The quantiser in quarter bits; 0: the features are analog symbols. */
  readonly depth: number
  readonly order: Order
  readonly reduction: Reduction
  readonly height: number
  readonly width: number
  readonly channels: number
  /** How many tokens were sent; of transform coefficients as many as these have values. */
  readonly rows: number
  /** Root mean square of analog features. */
  readonly amplitude: number
  /** The fingerprint of the backbone that the features are of. */
  readonly backbone: number
  /** A scale class of each kind and channel; null where the codec file's nets predict. */
  readonly scales: Uint8Array | null
  /** The header's own checksum, from which those of the other parts start. */
  readonly crc: number
}

const FIXED_BYTES = 24
const CRC_BYTES = 4
const MAGIC = 0x454d // "ME"
const VERSION = 3
const REDUCTIONS: readonly Reduction[] = ['merging', 'transform']
const ORDERS: readonly Order[] = ['band', 'stage', 'layer']

/** The body of a part that ends in four bytes of checksum, which starts from `start`. */
export function openPart(part: Uint8Array, start: number, name: string): Uint8Array {
  ensure(part.length >= CRC_BYTES, `the ${name} is ${part.length} bytes long: it was cut in transit`)
  const body = part.subarray(0, -CRC_BYTES)
  ensure(crc32(body, start) === crcOf(part), `the ${name} fails its checksum: it was changed in transit`)
  return body
}

/** Read a header, and refuse one that no payload can have. */
export function readHeader(part: Uint8Array): Header {
  const body = openPart(part, 0, 'header')
  const view = viewOf(body)
  ensure(body.length >= 3 && view.getUint16(0, true) === MAGIC, 'not the header of a payload')
  const mend = body[2] < VERSION ? 'have it sent again by a megen of today' : 'update this megen'
  ensure(body[2] === VERSION, `a payload of format ${body[2]}, this megen reads format ${VERSION} only: ${mend}`)
  ensure(body.length >= FIXED_BYTES, `the header is ${part.length} bytes long, expected at least ${FIXED_BYTES + CRC_BYTES}`)
  const [depth, order, prior, reduction, layer] = body.subarray(3, 8)
  ensureCode('order of parts', order, ORDERS.length)
  ensureCode('prior', prior, 2)
  ensureCode('reduction', reduction, REDUCTIONS.length)
  const layered = ORDERS[order] === 'layer'
  ensure(layer === (layered ? LAYER : 0), `the header names refinement layer ${layer}, which this megen does not know: update it`)

  const height = view.getUint16(8, true)
  const width = view.getUint16(10, true)
  const channels = view.getUint16(12, true)
  const rows = view.getUint16(14, true)
  const amplitude = view.getFloat32(16, true)
  ensure(depth <= MAX_DEPTH && (!layered || depth > LAYER), `no payload has a depth of ${depth} quarter bits`)
  ensure(reduction === 0 || depth === 0, 'no payload has transform coefficients but an analog one')
  ensure(amplitude >= 0 && amplitude <= MAX_AMPLITUDE, `no payload has an amplitude of ${amplitude}: at most ${MAX_AMPLITUDE} can be`)
  ensure(isSide(height) && isSide(width), `a grid of ${height} x ${width}: sides are even, 2 to ${MAX_SIDE}`)
  ensure(channels >= 1 && channels <= MAX_CHANNELS, `${channels} channels: 1 to ${MAX_CHANNELS} can be`)
  const tokens = height * width
  ensure(tokens / 4 <= rows && rows <= tokens, `${rows} rows for ${height} x ${width} tokens: at most three quarters can merge`)
  const scales = body.subarray(FIXED_BYTES)
  const expected = prior ? KINDS * channels : 0
  const right = scales.length === expected && scales.every((scale) => scale <= MAX_CLASS)
  ensure(right, `the header has ${scales.length} scales, expected ${expected} of at most ${MAX_CLASS}`)
  return {
    depth,
    order: ORDERS[order],
    reduction: REDUCTIONS[reduction],
    height,
    width,
    channels,
    rows,
    amplitude,
    backbone: view.getUint32(20, true),
    scales: prior ? scales : null,
    crc: crcOf(part),
  }
}

function crcOf(part: Uint8Array): number {
  return viewOf(part).getUint32(part.length - CRC_BYTES, true)
}

function ensureCode(name: string, code: number, count: number): void {
  ensure(code < count, `the header names ${name} ${code}, which this megen does not know: update it`)
}

function isSide(length: number): boolean {
  return length >= 2 && length <= MAX_SIDE && length % 2 === 0
}
