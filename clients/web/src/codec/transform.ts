import { ensure } from './error'
import type { Header } from './header'
import { UNIT } from './limits'
import type { CodecFile } from './prior'
import { log2 } from './quantiser'

/** Classes of a coefficient's variance that an octave has. */
export const VARIANCES_PER_OCTAVE = 8
/** The largest magnitude of a class: from 2^-20 to 2^20. */
export const MAX_VARIANCE = 20 * VARIANCES_PER_OCTAVE

/** Which coefficients were sent, in the order of their values; and each one's gain and variance. */
export interface Selection {
  readonly numbers: Int32Array
  readonly gains: Float64Array
  readonly variances: Float64Array
}

/** The coefficients of a payload (section 8), as many as its rows have values. */
export function selectionOf({ height, width, channels, rows }: Header, { variance, step }: CodecFile): Selection {
  const fits = variance !== null && variance.height === height && variance.width === width
  ensure(fits, `the codec file has no variances of coefficients on a grid of ${height} x ${width}: merge tokens instead`)
  const plane = height * width
  const unit = UNIT / VARIANCES_PER_OCTAVE
  const logVariance = Int32Array.from(variance.classes, (value) => value * unit)
  const logStep = step.map(log2)
  const keys = logVariance.map((value, i) => value - logStep[Math.floor(i / plane)])
  const order = Int32Array.from(keys, (_, i) => i).sort((a, b) => keys[b] - keys[a] || a - b)

  const count = rows * channels
  const stride = strideOf(count)
  const numbers = Int32Array.from({ length: count }, (_, place) => order[(place * stride) % count])
  const gains = Float64Array.from(numbers, (i) => 2 ** (-(logVariance[i] + 2 * logStep[Math.floor(i / plane)]) / (8 * UNIT)))
  return { numbers, gains, variances: Float64Array.from(numbers, (i) => 2 ** (logVariance[i] / UNIT)) }
}

/** The first step from 618 / 1000 of `count` on that has no divisor in common with it. */
function strideOf(count: number): number {
  const common = (a: number, b: number): number => (b === 0 ? a : common(b, a % b))
  let stride = Math.max(1, Math.floor((count * 618) / 1000))
  while (common(stride, count) > 1) stride++
  return stride
}

/** Tokens [height * width, channels] of linear estimates, and the root mean square error of those. */
export interface Estimates {
  readonly rows: Float32Array
  readonly error: number
}

/** Linear estimates from values with noise of those variances, as they were sent. */
export function estimatesOf(
  { height, width, channels }: Header,
  { variance }: CodecFile,
  { numbers, variances }: Selection,
  values: Float64Array,
  noises: Float64Array,
): Estimates {
  const classes = variance?.classes ?? new Int16Array(0)
  const left = Float64Array.from(classes, (value) => 2 ** (value / VARIANCES_PER_OCTAVE))
  const known = new Float64Array(classes.length)
  numbers.forEach((number, place) => {
    const total = variances[place] + noises[place]
    known[number] = (values[place] * variances[place]) / total
    left[number] = (variances[place] * noises[place]) / total
  })
  const error = Math.sqrt(left.reduce((sum, value) => sum + value, 0) / left.length)

  const [down, across] = [basisOf(height), basisOf(width)]
  const rows = new Float32Array(classes.length)
  const half = new Float64Array(height * width)
  for (let c = 0; c < channels; c++) {
    const plane = known.subarray(c * height * width, (c + 1) * height * width)
    for (let y = 0; y < height; y++)
      for (let u = 0; u < width; u++) {
        let sum = 0
        for (let v = 0; v < height; v++) sum += down[v * height + y] * plane[v * width + u]
        half[y * width + u] = sum
      }
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        let sum = 0
        for (let u = 0; u < width; u++) sum += half[y * width + u] * across[u * width + x]
        rows[(y * width + x) * channels + c] = sum
      }
  }
  return { rows, error }
}

/** The orthonormal cosine transform of type II: a row of `size` numbers for each frequency. */
function basisOf(size: number): Float64Array {
  return Float64Array.from({ length: size * size }, (_, i) => {
    const frequency = Math.floor(i / size)
    const wave = Math.cos((Math.PI * (2 * (i % size) + 1) * frequency) / (2 * size))
    return wave * Math.sqrt((frequency === 0 ? 1 : 2) / size)
  })
}
