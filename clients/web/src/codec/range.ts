import { CodecError, ensure } from './error'

/** Frequencies are of 24 bits, and sum to 2^24. */
const PRECISION = 24
const TOTAL = 2 ** PRECISION

/**
 * A decoder of range-coded symbols (section 2).
 *
 * Its state are the 64-bit numbers `range` and `offset` = point - lower. Each is kept as its upper 40 and lower 24 bits, in
 * doubles: the upper part of `range` then is `scale`, and nothing here exceeds 2^53, up to which doubles are exact.
 */
export class RangeDecoder {
  private rangeHigh = 2 ** 40 - 1
  private rangeLow = TOTAL - 1
  private offsetHigh: number
  private offsetLow: number
  /** What the last division left of `offset`: offset - quantile * scale. */
  private remainder = 0
  private readonly body: Uint8Array
  private readonly name: string
  private at = 0

  /** Decode the words of `body`; refusals name the part. */
  constructor(body: Uint8Array, name: string) {
    ensure(body.length % 4 === 0, `${name} holds ${body.length} bytes, which are not whole words of 4`)
    this.body = body
    this.name = name
    const [first, second] = [this.word(), this.word()]
    this.offsetHigh = first * 256 + (second >>> 24)
    this.offsetLow = second & 0xffffff
  }

  /** The next symbol of the alphabet of `count` symbols whose edges begin at `first`. */
  symbol(edges: Int32Array, first: number, count: number): number {
    const quantile = this.quantile()
    let low = first
    let high = first + count
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if (edges[middle] <= quantile) low = middle
      else high = middle
    }
    this.narrow(quantile - edges[low], edges[low + 1] - edges[low])
    return low - first
  }

  /** The next number of `bits` bits, all equally likely. */
  uniform(bits: number): number {
    const quantile = this.quantile()
    const share = PRECISION - bits
    const value = quantile >> share
    this.narrow(quantile - (value << share), 1 << share)
    return value
  }

  /** offset // scale, in two divisions of 12 bits each, whose dividends stay below 2^52. */
  private quantile(): number {
    const scale = this.rangeHigh
    if (this.offsetHigh >= scale) throw new CodecError(`${this.name} holds bits that no encoder wrote`)
    const upper = this.offsetHigh * 4096 + (this.offsetLow >> 12)
    const first = Math.floor(upper / scale)
    const lower = (upper - first * scale) * 4096 + (this.offsetLow & 4095)
    const second = Math.floor(lower / scale)
    this.remainder = lower - second * scale
    return first * 4096 + second
  }

  /** Go on with the symbol of `frequency` whose lower edge lies `above` below the quantile. */
  private narrow(above: number, frequency: number): void {
    const scaleHigh = Math.floor(this.rangeHigh / TOTAL)
    const scaleLow = this.rangeHigh - scaleHigh * TOTAL
    const offset = above * scaleLow + this.remainder
    const range = frequency * scaleLow
    const offsetCarry = Math.floor(offset / TOTAL)
    const rangeCarry = Math.floor(range / TOTAL)
    this.offsetHigh = above * scaleHigh + offsetCarry
    this.offsetLow = offset - offsetCarry * TOTAL
    this.rangeHigh = frequency * scaleHigh + rangeCarry
    this.rangeLow = range - rangeCarry * TOTAL
    if (this.rangeHigh < 256) this.renew()
  }

  /** Take in a word where less than 32 bits of `range`, and so of `offset`, are left. */
  private renew(): void {
    const word = this.word()
    this.rangeHigh = (this.rangeHigh * TOTAL + this.rangeLow) * 256
    this.rangeLow = 0
    this.offsetHigh = (this.offsetHigh * TOTAL + this.offsetLow) * 256 + (word >>> 24)
    this.offsetLow = word & 0xffffff
  }

  private word(): number {
    const { body, at } = this
    if (at >= body.length) return 0
    this.at = at + 4
    return (body[at] | (body[at + 1] << 8) | (body[at + 2] << 16) | (body[at + 3] << 24)) >>> 0
  }
}

/** Edges, one more than there are counts, of an alphabet whose symbols are as frequent as `counts` say. */
export function edgesOf(counts: ArrayLike<number>): Int32Array {
  const edges = new Int32Array(counts.length + 1)
  let total = 0
  for (let i = 0; i < counts.length; i++) total += counts[i]
  let before = 0
  for (let i = 0; i <= counts.length; i++) {
    edges[i] = Math.floor((before * (TOTAL - counts.length)) / total) + i
    if (i < counts.length) before += counts[i]
  }
  return edges
}
