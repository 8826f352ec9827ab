import { ensure } from './error'
import { MAX_HIDDEN, MAX_INPUT } from './limits'
import { readTensor, type TensorFile } from './safetensors'

/**
 * One layer of a net: each unit's weights lie together, and units of no weights fill up the last four.
 *
 * Whole numbers in doubles, which take two thirds of the time of integers here. All sums are exact.
 */
interface Layer {
  readonly inputs: number
  readonly units: number
  /** [units, inputs] */
  readonly weights: Float64Array
  readonly bias: Float64Array
}

/** A net of one hidden layer, in whole numbers. */
export interface Net {
  readonly first: Layer
  readonly second: Layer
}

/** A net, and its numbers in the order of the codec file's digest. */
export interface NetFile {
  readonly net: Net
  readonly numbers: readonly (Int16Array | Int32Array)[]
}

const MAX_INT32 = 2 ** 31 - 1
/** Weights are in units of 1 / 2^10. */
const WEIGHT_BITS = 10
/** Units whose sums are worked out side by side. */
const SIDE_BY_SIDE = 4

/** Read the net of one kind and group; refused where a sum in it could leave 32 bits. */
export function readNet(file: TensorFile, name: string, inputs: number, outputs: number): NetFile {
  const w1 = readTensor(file, `${name}.w1`, 'I16', [inputs, null])
  const hidden = w1.shape[1]
  const b1 = readTensor(file, `${name}.b1`, 'I32', [hidden])
  const w2 = readTensor(file, `${name}.w2`, 'I16', [hidden, outputs])
  const b2 = readTensor(file, `${name}.b2`, 'I32', [outputs])
  const first = layerOf(w1.numbers, b1.numbers, inputs)
  const second = layerOf(w2.numbers, b2.numbers, hidden, first.units)
  ensureSums(first, MAX_INPUT, `layer 1 of net ${name}`)
  ensureSums(second, MAX_HIDDEN, `layer 2 of net ${name}`)
  return { net: { first, second }, numbers: [w1.numbers, b1.numbers, w2.numbers, b2.numbers] }
}

/** What a net gives for each of `count` rows of inputs: `out` takes `net.second.units` numbers a row. */
export function runNet({ first, second }: Net, rows: Float64Array, stride: number, count: number, out: Int32Array): void {
  const sums = new Int32Array(2 * first.units)
  const hidden = new Float64Array(2 * first.units)
  for (let row = 0; row < count; row += 2) {
    const other = Math.min(row + 1, count - 1)
    apply(first, rows, row * stride, other * stride, sums, 0, first.units)
    for (let unit = 0; unit < hidden.length; unit++) {
      const sum = sums[unit] >> WEIGHT_BITS
      hidden[unit] = sum < 0 ? 0 : sum > MAX_HIDDEN ? MAX_HIDDEN : sum
    }
    apply(second, hidden, 0, first.units, out, row * second.units, other * second.units)
  }
  for (let i = 0; i < count * second.units; i++) out[i] >>= WEIGHT_BITS
}

/**
 * The sums of a layer for the inputs at `atA` and those at `atB`, two rows and four units at a time, which halves the loads.
 *
 * No sum leaves 32 bits, as `readNet` checked.
 */
function apply(layer: Layer, values: Float64Array, atA: number, atB: number, out: Int32Array, outA: number, outB: number): void {
  const { inputs, units, weights, bias } = layer
  for (let unit = 0; unit < units; unit += SIDE_BY_SIDE) {
    const first = unit * inputs
    const second = first + inputs
    const third = second + inputs
    const fourth = third + inputs
    let a0 = bias[unit]
    let a1 = bias[unit + 1]
    let a2 = bias[unit + 2]
    let a3 = bias[unit + 3]
    let b0 = a0
    let b1 = a1
    let b2 = a2
    let b3 = a3
    for (let i = 0; i < inputs; i++) {
      const a = values[atA + i]
      const b = values[atB + i]
      const w0 = weights[first + i]
      const w1 = weights[second + i]
      const w2 = weights[third + i]
      const w3 = weights[fourth + i]
      a0 += a * w0
      a1 += a * w1
      a2 += a * w2
      a3 += a * w3
      b0 += b * w0
      b1 += b * w1
      b2 += b * w2
      b3 += b * w3
    }
    out[outA + unit] = a0
    out[outA + unit + 1] = a1
    out[outA + unit + 2] = a2
    out[outA + unit + 3] = a3
    out[outB + unit] = b0
    out[outB + unit + 1] = b1
    out[outB + unit + 2] = b2
    out[outB + unit + 3] = b3
  }
}

/** The layer of a matrix [rows, columns], a row for each input; `inputs` may be more than its rows. */
function layerOf(matrix: Int16Array, biases: Int32Array, rows: number, inputs = rows): Layer {
  const columns = biases.length
  const units = Math.ceil(columns / SIDE_BY_SIDE) * SIDE_BY_SIDE
  const weights = new Float64Array(units * inputs)
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) weights[column * inputs + row] = matrix[row * columns + column]
  }
  const bias = new Float64Array(units)
  bias.set(biases)
  return { inputs, units, weights, bias }
}

function ensureSums({ inputs, units, weights, bias }: Layer, largest: number, name: string): void {
  for (let unit = 0, at = 0; unit < units; unit++) {
    let reach = Math.abs(bias[unit])
    for (let i = 0; i < inputs; i++) reach += largest * Math.abs(weights[at++])
    ensure(reach <= MAX_INT32, `a sum in ${name} of the codec file could reach ${reach}, beyond 32 bits`)
  }
}
