import { crc32, viewOf } from '../codec/bytes'
import { ensure } from './checks'
import { MOST_PARTS, VERSION } from './messages'

export const PREVIEW = 1
export const FEATURES = 2
export const HEADER_BYTES = 36

const MAGIC = 0x4647454d // "MEGF"
const CRC_AT = 32
const MOST_BYTES = 8 * 2 ** 20

/** A piece of a payload or a preview. */
export interface Frame {
  readonly kind: typeof PREVIEW | typeof FEATURES
  /** The request's id. */
  readonly request: string
  /** Counts the binary frames of a connection. */
  readonly sequence: number
  /** Of features: 0 the payload's header, 1 its map, 2 and on its feature parts; of a preview: the steps done. */
  readonly part: number
  readonly data: Uint8Array
}

/** The frame in a binary message. Errors: ProtocolError on anything else. */
export function unpackFrame(message: Uint8Array): Frame {
  const view = viewOf(message)
  ensure(message.length >= HEADER_BYTES && view.getUint32(0, true) === MAGIC, 'not a binary frame of megen')
  const version = message[4]
  ensure(version === VERSION, `a binary frame of version ${version}, this side knows version ${VERSION}`)
  const kind = message[5]
  const part = view.getUint16(6, true)
  const request = Array.from(message.subarray(8, 24), (byte) => byte.toString(16).padStart(2, '0')).join('')
  const length = view.getUint32(28, true)
  const data = message.slice(HEADER_BYTES)
  ensure(length === data.length && length <= MOST_BYTES, `a binary frame names ${length} bytes and has ${data.length}`)
  const crc = crc32(data, crc32(message.subarray(0, CRC_AT)))
  ensure(crc === view.getUint32(CRC_AT, true), 'a binary frame fails its checksum: it was changed')
  const known = kind === PREVIEW || (kind === FEATURES && part < MOST_PARTS)
  ensure(known, `a binary frame of kind ${kind}, part ${part}, which this side does not know`)
  return { kind, request, sequence: view.getUint32(24, true), part, data }
}
