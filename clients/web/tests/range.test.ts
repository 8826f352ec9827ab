import { expect, test } from 'vitest'
import { CodecError } from '../src/codec'
import { viewOf } from '../src/codec/bytes'
import { edgesOf, RangeDecoder } from '../src/codec/range'
import { bytes, randomOf } from './random'

/** Section 2 word by word, in whole numbers without bounds. */
function* quantiles(body: Uint8Array): Generator<bigint | null, never, [edge: number, frequency: number]> {
  const word = (at: number) => (4 * at < body.length ? BigInt(viewOf(body).getUint32(4 * at, true)) : 0n)
  const all = (1n << 64n) - 1n
  let lower = 0n
  let range = all
  let point = (word(0) << 32n) + word(1)
  for (let next = 2; ;) {
    const scale = range >> 24n
    const quantile = ((point - lower) & all) / scale
    const [edge, frequency] = yield quantile < 1n << 24n ? quantile : null
    lower = (lower + scale * BigInt(edge)) & all
    range = scale * BigInt(frequency)
    if (range >= 1n << 32n) continue
    lower = (lower << 32n) & all
    range <<= 32n
    point = ((point << 32n) & all) + word(next++)
  }
}

test('symbols are those of 64-bit arithmetic', () => {
  const random = randomOf(1)
  let symbols = 0
  let refused = 0
  for (let round = 0; round < 2000; round++) {
    const body = bytes(4 * random(20), random)
    if (random(4) === 0) body.fill(random(2) ? 255 : 0, 0, random(body.length + 1))
    const decoder = new RangeDecoder(body, 'a part')
    const reference = quantiles(body)
    let quantile = reference.next().value
    for (let i = 0; i < 60; i++) {
      const counts = Array.from({ length: 2 + random(60) }, () => (random(3) ? 1 + random(1 << (1 + random(16))) : 0))
      counts[0]++
      const edges = edgesOf(counts)
      const bits = random(3) ? 0 : 1 + random(16)
      const step = () => (bits ? decoder.uniform(bits) : decoder.symbol(edges, 0, counts.length))
      if (quantile === null) {
        expect(step).toThrow(CodecError)
        refused++
        break
      }
      const symbol = step()
      const edge = bits ? symbol << (24 - bits) : edges[symbol]
      const end = bits ? (symbol + 1) << (24 - bits) : edges[symbol + 1]
      if (quantile < edge || quantile >= end) expect([quantile, edge, end]).toBe('a quantile between its edges')
      quantile = reference.next([edge, end - edge]).value
      symbols++
    }
  }
  expect(refused).toBeGreaterThan(50)
  expect(symbols).toBeGreaterThan(50_000)
})

test('edges of counts', () => {
  expect([...edgesOf([1, 3])]).toEqual([0, 4194304, 16777216])
  expect([...edgesOf([0, 5, 0])]).toEqual([0, 1, 16777215, 16777216])
})

test('a body of half a word is refused', () => {
  expect(() => new RangeDecoder(new Uint8Array(6), 'a part')).toThrow('a part holds 6 bytes, which are not whole words of 4')
})
