import type { Symbols } from './container'
import { ensure } from './error'

/** The most copies of a symbol. */
const MAX_COPIES = 8
/** Beyond these a noise power counts as this much, so that all that is made of it is finite. */
const LEAST_NOISE = 1e-24
const MAX_NOISE = 1e24
/** The largest part of a symbol. */
const MAX_SYMBOL = 1e18

/** Rows [rows, channels] of features, and the deviation of each row's noise. */
export interface NoisyRows {
  readonly rows: Float32Array
  readonly deviation: Float32Array
}

/** The symbols of `values` values: copies are joined by maximum ratio combining (section 8). */
export function combined(symbols: Symbols | null, values: number): Symbols {
  const needed = (values + 1) >> 1
  const count = symbols?.variance.length ?? 0
  const copies = count / needed
  const fits = symbols !== null && Number.isInteger(copies) && copies >= 1 && copies <= MAX_COPIES
  ensure(fits, `an analog payload needs ${needed} symbols, got ${count}; up to ${MAX_COPIES} whole copies can be`)
  const { iq, variance } = symbols
  ensure(
    iq.every(Number.isFinite) && variance.every((v) => v >= 0 && v < Infinity),
    'symbols or variances that are no finite numbers, or below 0',
  )
  ensure(
    iq.every((part) => Math.abs(part) <= MAX_SYMBOL),
    'symbols hold numbers beyond 1e18: they are not of this payload',
  )
  const bounded = variance.map((power) => Math.min(power, MAX_NOISE))
  if (copies === 1) return { iq, variance: bounded }
  const joint = { iq: new Float64Array(2 * needed), variance: new Float64Array(needed) }
  for (let i = 0; i < needed; i++) {
    for (let at = i; at < count; at += needed) {
      const weight = 1 / Math.max(bounded[at], LEAST_NOISE)
      joint.variance[i] += weight
      joint.iq[2 * i] += weight * iq[2 * at]
      joint.iq[2 * i + 1] += weight * iq[2 * at + 1]
    }
    joint.variance[i] = 1 / joint.variance[i]
    joint.iq[2 * i] *= joint.variance[i]
    joint.iq[2 * i + 1] *= joint.variance[i]
  }
  return joint
}

/** Rows from analog symbols (section 8); `counts` says how many tokens show each row. */
export function demodulate({ iq, variance }: Symbols, amplitude: number, counts: Int32Array, channels: number): NoisyRows {
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
