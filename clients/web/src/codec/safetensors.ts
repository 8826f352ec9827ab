import { viewOf } from './bytes'
import { CodecError, ensure } from './error'

/** A safetensors file: its metadata, what it says of each tensor, and all their bytes. */
export interface TensorFile {
  readonly metadata: Readonly<Record<string, unknown>>
  readonly tensors: ReadonlyMap<string, unknown>
  readonly data: Uint8Array
}

/** The arrays that hold each type of number. */
interface Types {
  I16: Int16Array
  I32: Int32Array
}

/** A tensor's numbers row by row, and its shape. */
export interface Tensor<Type extends keyof Types> {
  readonly shape: readonly number[]
  readonly numbers: Types[Type]
}

/** Open a safetensors file: a u64 length, JSON, then the numbers. */
export function openTensors(file: Uint8Array): TensorFile {
  const view = viewOf(file)
  ensure(file.length >= 8 && view.getUint32(4, true) === 0, 'not a safetensors file')
  const length = view.getUint32(0, true)
  ensure(length <= file.length - 8, 'the safetensors file ends within its index: it was cut')
  const tensors = new Map(Object.entries(parse(file.subarray(8, 8 + length))))
  const metadata = tensors.get('__metadata__')
  return { metadata: isRecord(metadata) ? metadata : {}, tensors, data: file.subarray(8 + length) }
}

/** Read a tensor; refused where it has another type or shape (null: any size). */
export function readTensor<Type extends keyof Types>(
  { tensors, data }: TensorFile,
  name: string,
  type: Type,
  expected: readonly (number | null)[],
): Tensor<Type> {
  const entry = tensors.get(name)
  ensure(isRecord(entry), `the codec file has no tensor ${name}`)
  const { dtype, shape, data_offsets: place } = entry
  ensure(dtype === type, `tensor ${name} of the codec file must be of type ${type}`)
  ensure(isSizes(shape) && isSizes(place) && place.length === 2, `tensor ${name} of the codec file has no shape or no place`)
  const fits = shape.length === expected.length && expected.every((size, i) => size === null || size === shape[i])
  ensure(fits, `tensor ${name} of the codec file is ${shape.join(' x ')}, expected ${expected.map((size) => size ?? 'n').join(' x ')}`)
  const [from, to] = place
  const bytes = shape.reduce((product, size) => product * size, type === 'I16' ? 2 : 4)
  ensure(from <= to && to <= data.length && to - from === bytes, `tensor ${name} does not fit its place in the codec file`)
  const copy = data.slice(from, to).buffer // aligned; little-endian, as all machines that run a browser are
  return { shape, numbers: (type === 'I16' ? new Int16Array(copy) : new Int32Array(copy)) as Types[Type] }
}

function parse(json: Uint8Array): Record<string, unknown> {
  let index: unknown
  try {
    index = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json))
  } catch {
    throw new CodecError('the index of the safetensors file is not JSON')
  }
  ensure(isRecord(index), 'the index of the safetensors file names no tensors')
  return index
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0)
}
