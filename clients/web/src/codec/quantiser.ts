import { UNIT } from './limits'

/** 2^(-k/4) for k quarter bits, in units of 1/4096. */
const QUARTERS = [4096, 3444, 2896, 2435]

/** The quantiser's step at a depth in quarter bits, in units of 1/256 (section 5). */
export function baseStep(depth: number): number {
  return ((2048 * QUARTERS[depth % 4]) >> 12) >> (depth >> 2)
}

/** Each channel's step from its relative one, in units of 1/256. */
export function channelSteps(relative: Int32Array, depth: number): Int32Array {
  return relative.map((step) => Math.max(1, Math.floor((step * baseStep(depth)) / UNIT)))
}

/** log2 of a step, in units of 1/256 both, linear between powers of two (section 6). */
export function log2(step: number): number {
  const exponent = 31 - Math.clz32(step)
  return UNIT * (exponent - 8) + ((UNIT * (step - (1 << exponent))) >> exponent)
}
