import { crc32, viewOf } from '../codec/bytes'

const MAGIC = 0x5047454d // "MEGP"
const VERSION = 3
const START_BYTES = 16
const CRC_BYTES = 4

/** Header, map and feature parts as they lie in a file (docs/format.md, section 9). */
export function packPayload([header, map, ...features]: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bodies = [header, map, ...features]
  const start = START_BYTES + 4 * features.length
  const size = bodies.reduce((sum, { length }) => sum + length, start)
  const out = new Uint8Array(size + CRC_BYTES)
  const view = viewOf(out)
  view.setUint32(0, MAGIC, true)
  out[4] = VERSION
  view.setUint16(6, features.length, true)
  let at = start
  bodies.forEach((body, k) => {
    view.setUint32(8 + 4 * k, body.length, true)
    out.set(body, at)
    at += body.length
  })
  view.setUint32(at, crc32(out.subarray(0, at)), true)
  return out
}
