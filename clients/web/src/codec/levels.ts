import { ensure } from './error'
import { LOGISTIC_COUNTS } from './logistic'
import { edgesOf, type RangeDecoder } from './range'

/** Scale classes that have a table; of wider ones the lowest bits travel plainly. */
export const TABLES = 24
/** Symbols of a table: the levels -24 to 24. */
export const SYMBOLS = 49
/** What the counts of a table sum to. */
export const COUNTS_TOTAL = 65536

const REACH = 24
const EDGES = SYMBOLS + 1
const ESCAPE_BITS = 16
const MAX_LEVEL = 65535

/** The counts [24 x 49] where there is no codec file. */
export function logisticCounts(): Int32Array {
  return Int32Array.from(LOGISTIC_COUNTS.flatMap((row) => [...row.slice(1).reverse(), ...row]))
}

/** The edges [24 x 50] of counts [24 x 49]; refused where a count is 0 or a row has another sum than 65536. */
export function levelEdges(counts: Int32Array): Int32Array {
  ensure(counts.length === TABLES * SYMBOLS, `the table of levels has ${counts.length} counts, expected ${TABLES * SYMBOLS}`)
  const edges = new Int32Array(TABLES * EDGES)
  for (let table = 0; table < TABLES; table++) {
    const row = counts.subarray(table * SYMBOLS, (table + 1) * SYMBOLS)
    const sum = row.reduce((total, count) => total + count, 0)
    ensure(row.every((count) => count >= 1) && sum === COUNTS_TOTAL, `row ${table} of the table of levels is no distribution`)
    edges.set(edgesOf(row), table * EDGES)
  }
  return edges
}

/** Decode a block of `count` levels of the given scale classes into `levels` (section 7). */
export function readLevels(decoder: RangeDecoder, classes: Uint8Array, count: number, edges: Int32Array, levels: Int32Array): void {
  let far = false
  let fine = false
  for (let i = 0; i < count; i++) {
    const low = lowBits(classes[i])
    const high = decoder.symbol(edges, (classes[i] - 4 * low) * EDGES, SYMBOLS) - REACH
    levels[i] = high
    far ||= high === REACH || high === -REACH
    fine ||= low > 0
  }
  if (far) readEscapes(decoder, count, levels)
  if (fine) readLowBits(decoder, classes, count, levels)
  if (far || fine) for (let i = 0; i < count; i++) levels[i] = Math.max(-MAX_LEVEL, Math.min(MAX_LEVEL, levels[i]))
}

function readEscapes(decoder: RangeDecoder, count: number, levels: Int32Array): void {
  for (let i = 0; i < count; i++) {
    if (levels[i] === REACH) levels[i] += decoder.uniform(ESCAPE_BITS)
    else if (levels[i] === -REACH) levels[i] -= decoder.uniform(ESCAPE_BITS)
  }
}

function readLowBits(decoder: RangeDecoder, classes: Uint8Array, count: number, levels: Int32Array): void {
  for (let i = 0; i < count; i++) {
    const low = lowBits(classes[i])
    if (low > 0) levels[i] = (levels[i] << low) + decoder.uniform(low) - (1 << (low - 1))
  }
}

function lowBits(scaleClass: number): number {
  return scaleClass < TABLES ? 0 : (scaleClass - TABLES + 4) >> 2
}
