/** Random whole numbers from 0 to `end - 1`, the same for the same seed. */
export type Random = (end: number) => number

/** A generator of random numbers (mulberry32). */
export function randomOf(seed: number): Random {
  let state = seed
  return (end) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * end)
  }
}

/** Random bytes. */
export function bytes(count: number, random: Random): Uint8Array {
  return Uint8Array.from({ length: count }, () => random(256))
}
