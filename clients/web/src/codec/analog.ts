import type { Symbols } from './container'
import { ensure } from './error'

/** Below this a noise power counts as this much, so that its logarithm is finite. */
const LEAST_NOISE = 1e-24

/** Rows [rows, channels] of features, and the deviation of each row's noise. */
export interface NoisyRows {
  readonly rows: Float32Array
  readonly deviation: Float32Array
}

/** Rows from analog symbols (section 8); `counts` says how many tokens show each row. */
export function demodulate(symbols: Symbols | null, amplitude: number, counts: Int32Array, channels: number): NoisyRows {
  const needed = (counts.length * channels + 1) >> 1
  const count = symbols?.variance.length ?? 0
  ensure(symbols !== null && count === needed, `an analog payload needs ${needed} symbols, got ${count}`)
  const { iq, variance } = symbols
  ensure(
    iq.every(Number.isFinite) && variance.every((v) => v >= 0 && v < Infinity),
    'symbols or variances that are no finite numbers, or below 0',
  )

  const meanRoot = counts.reduce((sum, count) => sum + Math.sqrt(count), 0) / counts.length
  const rows = new Float32Array(counts.length * channels)
  const deviation = new Float32Array(counts.length)
  for (let row = 0, at = 0; row < counts.length; row++) {
    const scale = amplitude / Math.sqrt(Math.sqrt(counts[row]) / meanRoot)
    let logSum = 0
    for (let c = 0; c < channels; c++, at++) {
      const noise = variance[at >> 1] * scale ** 2
      rows[at] = (iq[at] * Math.SQRT2 * scale) / (1 + noise)
      logSum += Math.log(Math.max(noise, LEAST_NOISE))
    }
    deviation[row] = Math.exp((0.5 * logSum) / channels)
  }
  return { rows, deviation }
}
