import type { Tiling } from '../protocol/messages'

/** A state [d, h, w] between the two graphs of a receiver. */
export interface State {
  readonly data: Float32Array
  readonly channels: number
  readonly height: number
  readonly width: number
}

/** Pixels in bytes, three or four a place. */
interface Bytes {
  readonly data: Uint8Array | Uint8ClampedArray
  readonly width: number
}

/** One tile: the part of the state that it needs, and the part of it that is its own, in places of the state. */
interface Tile {
  readonly top: number
  readonly left: number
  readonly height: number
  readonly width: number
  readonly ownTop: number
  readonly ownLeft: number
  readonly ownHeight: number
  readonly ownWidth: number
}

/** The tiles that a state of so many places falls into. */
export function tilesOf(height: number, width: number, { side, margin }: Pick<Tiling, 'side' | 'margin'>): readonly Tile[] {
  const out: Tile[] = []
  for (let ownTop = 0; ownTop < height; ownTop += side) {
    for (let ownLeft = 0; ownLeft < width; ownLeft += side) {
      const [top, left] = [Math.max(0, ownTop - margin), Math.max(0, ownLeft - margin)]
      out.push({
        top,
        left,
        height: Math.min(height, ownTop + side + margin) - top,
        width: Math.min(width, ownLeft + side + margin) - left,
        ownTop,
        ownLeft,
        ownHeight: Math.min(side, height - ownTop),
        ownWidth: Math.min(side, width - ownLeft),
      })
    }
  }
  return out
}

/** What a tile needs of a state, [d, height, width]. */
export function cut(state: State, tile: Tile): Float32Array {
  const out = new Float32Array(state.channels * tile.height * tile.width)
  let to = 0
  for (let channel = 0; channel < state.channels; channel++) {
    for (let y = 0; y < tile.height; y++, to += tile.width) {
      const from = (channel * state.height + tile.top + y) * state.width + tile.left
      out.set(state.data.subarray(from, from + tile.width), to)
    }
  }
  return out
}

/** Put a tile's own pixels, of red, green, blue, into a picture of red, green, blue, alpha; each place of the state has grown by `grows`. */
export function paste(made: Bytes, tile: Tile, grows: number, picture: Bytes): void {
  const [down, right] = [grows * (tile.ownTop - tile.top), grows * (tile.ownLeft - tile.left)]
  for (let y = 0; y < grows * tile.ownHeight; y++) {
    let from = 3 * ((down + y) * made.width + right)
    let to = 4 * ((grows * tile.ownTop + y) * picture.width + grows * tile.ownLeft)
    for (let x = 0; x < grows * tile.ownWidth; x++, from += 3, to += 4) {
      picture.data[to] = made.data[from]
      picture.data[to + 1] = made.data[from + 1]
      picture.data[to + 2] = made.data[from + 2]
      picture.data[to + 3] = 255
    }
  }
}
