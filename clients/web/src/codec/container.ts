import { crc32, viewOf } from './bytes'
import { ensure } from './error'
import { BAND_ROWS, KINDS, MAX_CHANNELS, MAX_SIDE } from './limits'

/** Equalised I/Q symbols of an analog payload, each with its noise variance. */
export interface Symbols {
  /** Real and imaginary part of each symbol in turn. */
  readonly iq: Float64Array
  readonly variance: Float64Array
}

/** The parts of a payload as they came; a feature part that was lost is empty. */
export interface Parts {
  readonly header: Uint8Array
  readonly map: Uint8Array
  readonly features: readonly Uint8Array[]
  readonly symbols: Symbols | null
}

const MAGIC = 0x5047454d // "MEGP"
const VERSION = 3
const START_BYTES = 16
const CRC_BYTES = 4
const SYMBOL_BYTES = 16
const VARIANCE_BYTES = 8

const MAX_PARTS = 1 + MAX_SIDE / BAND_ROWS
const MAX_HEADER_BYTES = 28 + KINDS * MAX_CHANNELS
const MAX_PART_BYTES = 4 * MAX_SIDE ** 2 * MAX_CHANNELS
const MAX_SYMBOLS = (MAX_SIDE ** 2 * MAX_CHANNELS) / 2

/** The parts in the bytes of a file or a message (section 9); bytes are shared, not copied, but for the symbols. */
export function unpack(data: Uint8Array): Parts {
  const view = viewOf(data)
  ensure(data.length >= START_BYTES + CRC_BYTES && view.getUint32(0, true) === MAGIC, 'not a packed payload')
  const version = data[4]
  const flags = data[5]
  const count = view.getUint16(6, true)
  ensure(version === VERSION, `a packed payload of format ${version}, this megen reads format ${VERSION} only`)
  ensure(flags <= 1, `the packed payload has flags 0x${flags.toString(16).padStart(2, '0')}, which this megen does not know: update it`)
  ensure(count <= MAX_PARTS, `the packed payload names ${count} feature parts: at most ${MAX_PARTS} can be`)
  let at = START_BYTES + 4 * (count + flags)
  ensure(data.length >= at + CRC_BYTES, 'the packed payload ends within its lengths: it was cut')

  const lengths = Array.from({ length: 2 + count }, (_, i) => view.getUint32(8 + 4 * i, true))
  const symbolCount = flags ? view.getUint32(at - 4, true) : 0
  const fits = lengths[0] <= MAX_HEADER_BYTES && Math.max(...lengths) <= MAX_PART_BYTES && symbolCount <= MAX_SYMBOLS
  ensure(fits, 'the packed payload names a length that no payload has')
  const expected = lengths.reduce((sum, length) => sum + length, at + symbolCount * (SYMBOL_BYTES + VARIANCE_BYTES) + CRC_BYTES)
  ensure(data.length === expected, `the packed payload is ${data.length} bytes long, expected ${expected}: it was cut`)
  const crc = view.getUint32(data.length - CRC_BYTES, true)
  ensure(crc32(data.subarray(0, -CRC_BYTES)) === crc, 'the packed payload fails its checksum: it was changed')

  const [header, map, ...features] = lengths.map((length) => {
    at += length
    return data.subarray(at - length, at)
  })
  return { header, map, features, symbols: flags ? readSymbols(view, at, symbolCount) : null }
}

function readSymbols(view: DataView, at: number, count: number): Symbols {
  const read = (_: unknown, i: number) => view.getFloat64(at + 8 * i, true)
  const numbers = Float64Array.from({ length: 3 * count }, read)
  return { iq: numbers.subarray(0, 2 * count), variance: numbers.subarray(2 * count) }
}
