import type { Header, Order } from './header'
import { BAND_ROWS } from './limits'

/** Tokens of one kind that are decoded together. */
export interface Stage {
  readonly kind: number
  readonly tokens: Int32Array
  /** The four tokens that each is predicted from; `NONE` where there is none. */
  readonly neighbours: Int32Array
}

/** In which order tokens are decoded, and in which part each travels. */
export interface Pyramid {
  /** The stages of each feature part, the base first. */
  readonly parts: readonly (readonly Stage[])[]
  readonly partOf: Uint8Array
}

/** No neighbour. */
export const NONE = -1

const BASE_KINDS = [0, 1, 2]
const REFINING_KINDS = [3, 4, 5, 6]
const SPACINGS = [4, 2, 1]
/** Where neighbours lie, in units of the spacing: of the middle of four tokens, and of what lies between two. */
const MIDDLE = { down: [-1, -1, 1, 1], right: [-1, 1, -1, 1], across: [3, 2, 1, 0] }
const EDGE = { down: [0, 0, -1, 1], right: [-1, 1, 0, 0], across: [1, 0, 3, 2] }

/** The pyramid of a grid, whose parts are bands, stages, or a base of all stages and what refines its bands (section 4). */
export function pyramidOf({ height, width, order }: Pick<Header, 'height' | 'width' | 'order'>): Pyramid {
  const kinds = kindsOf(height, width)
  const bands = Math.ceil(height / BAND_ROWS)
  const everywhere: Range = [0, height]
  const stage = (kind: number, rows: Range) => stageOf(kind, rows, kinds, height, width, order)
  const bandStage = (kind: number, band: number) => stage(kind, [band * BAND_ROWS, Math.min((band + 1) * BAND_ROWS, height)])

  const base = BASE_KINDS.map((kind) => stage(kind, everywhere))
  const bandNumbers = Array.from({ length: bands }, (_, band) => band)
  const partOf = new Uint8Array(height * width)
  if (order === 'layer') {
    const every = [...BASE_KINDS, ...REFINING_KINDS].flatMap((kind) => bandNumbers.map((band) => bandStage(kind, band)))
    for (let token = 0; token < partOf.length; token++) partOf[token] = 1 + Math.floor(token / width / BAND_ROWS)
    return { parts: [every, ...bandNumbers.map(() => [])], partOf }
  }
  const rest =
    order === 'band'
      ? bandNumbers.map((band) => REFINING_KINDS.map((kind) => bandStage(kind, band)))
      : REFINING_KINDS.map((kind) => bandNumbers.map((band) => bandStage(kind, band)))
  const parts = [base, ...rest]
  parts.forEach((stages, number) => stages.forEach(({ tokens }) => tokens.forEach((token) => (partOf[token] = number))))
  return { parts, partOf }
}

type Range = readonly [from: number, to: number]

function kindsOf(height: number, width: number): Uint8Array {
  return Uint8Array.from({ length: height * width }, (_, token) => kindAt(Math.floor(token / width), token % width))
}

/** Kind 0 lies at multiples of 8; a refinement of spacing h at odd multiples of h, in both directions or in one. */
function kindAt(y: number, x: number): number {
  for (const [level, spacing] of SPACINGS.entries()) {
    if (y % spacing || x % spacing) continue
    const odd = ((y / spacing) & 1) + ((x / spacing) & 1)
    if (odd > 0) return odd === 2 ? 1 + 2 * level : 2 + 2 * level
  }
  return 0
}

function stageOf(kind: number, [from, to]: Range, kinds: Uint8Array, height: number, width: number, order: Order): Stage {
  const tokens: number[] = []
  for (let token = from * width; token < to * width; token++) if (kinds[token] === kind) tokens.push(token)
  const neighbours = new Int32Array(4 * tokens.length).fill(NONE)
  if (kind === 0) return { kind, tokens: Int32Array.from(tokens), neighbours }

  const spacing = SPACINGS[(kind - 1) >> 1]
  const { down, right, across } = kind % 2 ? MIDDLE : EDGE
  const seen = new Int32Array(4)
  tokens.forEach((token, number) => {
    const y = Math.floor(token / width)
    const x = token % width
    for (let k = 0; k < 4; k++) {
      const [row, column] = [y + spacing * down[k], x + spacing * right[k]]
      const inside = row >= 0 && row < height && column >= 0 && column < width
      const near = row * width + column
      const visible = order !== 'band' || kinds[near] <= 2 || row >> 3 === y >> 3
      seen[k] = inside && kinds[near] < kind && visible ? near : NONE
    }
    const first = seen.find((near) => near !== NONE) ?? NONE
    for (let k = 0; k < 4; k++) neighbours[4 * number + k] = [seen[k], seen[across[k]], first].find((near) => near !== NONE) ?? NONE
  })
  return { kind, tokens: Int32Array.from(tokens), neighbours }
}
