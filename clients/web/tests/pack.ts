import { type Parts, unpack } from '../src/codec'
import { crc32, joined, viewOf } from '../src/codec/bytes'

/** The parts of a payload without their checksums, to be changed and sealed again. */
export interface Bodies {
  readonly header: Uint8Array
  /** Null where there is no map. */
  readonly map: Uint8Array | null
  /** Null: lost. */
  readonly features: readonly (Uint8Array | null)[]
  readonly symbols: Parts['symbols']
}

/** The bodies in a packed payload. */
export function bodiesOf(payload: Uint8Array): Bodies {
  const { header, map, features, symbols } = unpack(payload)
  return {
    header: header.subarray(0, -4),
    map: map.length > 0 ? map.subarray(0, -4) : null,
    features: features.map((part) => (part.length > 0 ? part.subarray(0, -3) : null)),
    symbols,
  }
}

/** Parts with right checksums. */
export function seal({ header, map, features, symbols }: Bodies): Parts {
  const start = crc32(header)
  return {
    header: joined(header, u32(start)),
    map: map ? joined(map, u32(crc32(map, start))) : new Uint8Array(0),
    features: features.map((body, number) => {
      if (body === null) return new Uint8Array(0)
      const crc = u32(crc32(joined(Uint8Array.of(number), body), start))
      return joined(body, crc.subarray(0, 3))
    }),
    symbols,
  }
}

/** A payload as it lies in a file. */
export function pack({ header, map, features, symbols }: Parts): Uint8Array {
  const start = Uint8Array.of(0x4d, 0x45, 0x47, 0x50, 3, symbols ? 1 : 0, features.length, 0)
  const lengths = [header, map, ...features].map((part) => u32(part.length))
  const count = symbols ? [u32(symbols.variance.length)] : []
  const numbers = symbols ? [bytesOfNumbers(symbols.iq), bytesOfNumbers(symbols.variance)] : []
  return checked(joined(start, ...lengths, ...count, header, map, ...features, ...numbers))
}

/** Bytes and their CRC-32. */
export function checked(body: Uint8Array): Uint8Array {
  return joined(body, u32(crc32(body)))
}

function u32(value: number): Uint8Array {
  const out = new Uint8Array(4)
  viewOf(out).setUint32(0, value, true)
  return out
}

function bytesOfNumbers(numbers: Float64Array): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)
}
