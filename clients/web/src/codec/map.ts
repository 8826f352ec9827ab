import { ensure } from './error'
import { type Header, openPart } from './header'
import { edgesOf, RangeDecoder } from './range'

const CHOICES = 8
/** Cells down and right of a source's own, in which the destination of each choice lies. */
const DOWN = [0, 0, 1, 1, 0, -1, -1, 1]
const RIGHT = [0, 1, 0, 1, -1, 0, 1, -1]

/** The token that each token's values come from, itself where it was sent (section 3). */
export function readMap(part: Uint8Array, header: Header): Int32Array {
  const { height, width } = header
  const target = Int32Array.from({ length: height * width }, (_, token) => token)
  const merged = header.reduction === 'transform' ? 0 : height * width - header.rows
  if (merged === 0 && part.length === 0) return target

  const body = openPart(part, header.crc, 'merge map')
  ensure(body.length >= 4 && body.length % 4 === 0, 'the merge map is not made of whole words')
  ensure(merged > 0, 'a merge map where no token merged')
  const weights = readWeights(body)
  const only = onlyChoice(weights)
  const decoder = new RangeDecoder(body.subarray(4), 'the merge map')
  const sources = mergedSources(decoder, target, width, merged)
  const edges = edgesOf(weights)
  for (const source of sources) {
    const choice = only ?? decoder.symbol(edges, 0, CHOICES)
    const y = (Math.floor(source / width) >> 1) + DOWN[choice]
    const x = ((source % width) >> 1) + RIGHT[choice]
    ensure(y >= 0 && x >= 0 && 2 * y < height && 2 * x < width, 'the merge map leads outside the grid')
    target[source] = 2 * y * width + 2 * x
  }
  return target
}

/** Eight weights of four bits: the most significant bit of a byte comes first, and in a weight the least significant one. */
function readWeights(body: Uint8Array): number[] {
  const bit = (at: number) => (body[at >> 3] >> (7 - (at & 7))) & 1
  return Array.from({ length: CHOICES }, (_, i) => bit(4 * i) + 2 * bit(4 * i + 1) + 4 * bit(4 * i + 2) + 8 * bit(4 * i + 3))
}

/** The one choice that has a weight; null where several have. */
function onlyChoice(weights: readonly number[]): number | null {
  const used = weights.flatMap((weight, choice) => (weight > 0 ? [choice] : []))
  ensure(used.length > 0, 'the merge map has no weights')
  return used.length === 1 ? used[0] : null
}

function mergedSources(decoder: RangeDecoder, tokens: Int32Array, width: number, merged: number): Int32Array {
  const sources = tokens.filter((token) => Math.floor(token / width) % 2 === 1 || (token % width) % 2 === 1)
  if (merged === sources.length) return sources
  const edges = edgesOf([sources.length - merged, merged])
  const found = sources.filter(() => decoder.symbol(edges, 0, 2) === 1)
  ensure(found.length === merged, `the merge map merges ${found.length} tokens, the header says ${merged}`)
  return found
}
