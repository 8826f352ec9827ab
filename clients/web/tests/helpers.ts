import { readFileSync } from 'node:fs'
import { crc32 } from '../src/codec/bytes'
import { type CodecFile, type Features, readCodecFile } from '../src/codec'

/** A vector that must be decoded. */
export interface DecodedVector {
  readonly name: string
  readonly prior: CodecName
  readonly payload: string
  readonly crc?: number
  readonly first?: number[]
  readonly last?: number[]
  readonly lost?: number[]
  readonly map?: number[]
  readonly values?: number[]
  readonly error?: number
}

/** Which codec file a vector is decoded with. */
export type CodecName = 'small' | 'scenes' | 'none'

interface Vectors {
  readonly backbone: number
  readonly bundled: number
  readonly digests: Readonly<Record<'small' | 'scenes', number>>
  readonly levels: number[][]
  readonly decoded: DecodedVector[]
  readonly refused: { readonly name: string; readonly payload: string; readonly why: string }[]
}

const ROOT = new URL('../../../', import.meta.url)

/** The bytes of a file of the repository. */
export function bytesOf(path: string): Uint8Array {
  return new Uint8Array(readFileSync(new URL(path, ROOT)))
}

/** The golden vectors. */
export const VECTORS = JSON.parse(new TextDecoder().decode(bytesOf('tests/golden/vectors.json'))) as Vectors

/** The bytes of both codec files. */
export const CODEC_BYTES = {
  small: bytesOf('tests/golden/small/codec.safetensors'),
  scenes: bytesOf('src/megen/assets/scenes/codec.safetensors'),
}

/** Both codec files, and none. */
export const CODECS: Readonly<Record<CodecName, CodecFile | null>> = {
  small: readCodecFile(CODEC_BYTES.small),
  scenes: readCodecFile(CODEC_BYTES.scenes),
  none: null,
}

/** Bytes from hexadecimal. */
export function fromHex(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], (byte) => parseInt(byte, 16))
}

/** All tokens' values in units of 1/256, token by token. */
export function valuesOf({ rows, mergeMap, channels }: Features): Int16Array {
  const values = new Int16Array(mergeMap.length * channels)
  mergeMap.forEach((row, token) => {
    for (let c = 0; c < channels; c++) values[token * channels + c] = 256 * rows[row * channels + c]
  })
  return values
}

/** The CRC-32 of an array's bytes. */
export function crcOf(array: Int16Array | Int32Array | Float32Array): number {
  return crc32(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
}
