import { SYMBOLS, TABLES } from './levels'
import { clip, MAX_VALUE } from './limits'
import { log2 } from './quantiser'
import { edgesOf, type RangeDecoder } from './range'

/** What was coded of the base of a layered payload, and how finely it is refined. Of every token and channel: */
export interface Layer {
  /** The level, within +-5. */
  readonly levels: Int8Array
  /** The scale class for the fine step. */
  readonly classes: Uint8Array
  /** The value of the base, in units of 1/256. */
  readonly coarse: Int16Array
  /** Each channel's fine step, and log2 of it, in units of 1/256. */
  readonly steps: Int32Array
  readonly logSteps: Int32Array
}

/** The fine step is a quarter of the base's. */
const FINER = 4
/** A symbol says -3 to 3 fine steps. */
const MOST = 3
const ALPHABET = 2 * MOST + 1
const EDGES = ALPHABET + 1
/** Cells beyond this coarse level are taken to be as that one. */
const FARTHEST = 5
const MIDDLE = (SYMBOLS - 1) / 2
/** Sixteenths of each symbol's fine step that lie in the cell of a coarse level, for a level of 0 and any other. */
const WITHIN = [
  [1, 12, 16, 16, 16, 12, 1],
  [0, 2, 16, 16, 16, 12, 1],
]

/** Room for what the base says of `size` values. */
export function layerOf(steps: Int32Array, size: number): Layer {
  return { levels: new Int8Array(size), classes: new Uint8Array(size), coarse: new Int16Array(size), steps, logSteps: steps.map(log2) }
}

/** Keep what the base says of a value. */
export function note({ levels, coarse }: Layer, at: number, level: number, value: number): void {
  levels[at] = clip(level, FARTHEST)
  coarse[at] = value
}

/** The edges of the seven symbols, by the fine step's class and the coarse level's magnitude, of counts [24 x 49] (section 7). */
export function refinementEdges(counts: Int32Array): Int32Array {
  const edges = new Int32Array(TABLES * (FARTHEST + 1) * EDGES)
  for (let row = 0; row < TABLES; row++) {
    for (let level = 0; level <= FARTHEST; level++) {
      const first = row * SYMBOLS + MIDDLE + FINER * level - MOST
      const own = WITHIN[Math.min(level, 1)].map((share, i) => (counts[first + i] * share) >> 4)
      edges.set(edgesOf(own), (row * (FARTHEST + 1) + level) * EDGES)
    }
  }
  return edges
}

/** Refine the values of tokens that were sent, `tokens` in ascending order. */
export function refine(layer: Layer, tokens: readonly number[], edges: Int32Array, decoder: RangeDecoder, values: Int16Array): void {
  const { levels, classes, coarse, steps } = layer
  const channels = steps.length
  for (const token of tokens) {
    for (let c = 0, at = token * channels; c < channels; c++, at++) {
      const row = Math.min(classes[at], TABLES - 1) * (FARTHEST + 1) + Math.abs(levels[at])
      const symbol = decoder.symbol(edges, row * EDGES, ALPHABET) - MOST
      values[at] = clip(coarse[at] + (levels[at] < 0 ? -symbol : symbol) * steps[c], MAX_VALUE)
    }
  }
}
