import { expect, test } from 'vitest'
import { cut, paste, type State, tilesOf } from '../src/receiver/tiles'

/** A state whose every value is its place's number. */
function numbered(channels: number, height: number, width: number): State {
  const data = Float32Array.from({ length: channels * height * width }, (_, k) => k % 251)
  return { data, channels, height, width }
}

/** A stand-in for the second graph: each place becomes grows x grows pixels of its first three channels. */
function grown(part: Float32Array, height: number, width: number, grows: number): Uint8Array {
  const out = new Uint8Array(3 * grows * grows * height * width)
  for (let y = 0; y < grows * height; y++) {
    for (let x = 0; x < grows * width; x++) {
      const place = Math.floor(y / grows) * width + Math.floor(x / grows)
      for (let c = 0; c < 3; c++) out[3 * (y * grows * width + x) + c] = part[c * height * width + place]
    }
  }
  return out
}

test.each([
  [{ side: 4, margin: 2, grows: 2 }, 10, 7],
  [{ side: 64, margin: 3, grows: 2 }, 10, 7],
  [{ side: 1, margin: 0, grows: 3 }, 3, 2],
  [{ side: 5, margin: 9, grows: 1 }, 10, 12],
])('tiles of %j make the whole of %d x %d places', (tiling, height, width) => {
  const state = numbered(3, height, width)
  const { grows } = tiling
  const picture = { data: new Uint8Array(4 * grows * grows * height * width), width: grows * width }
  for (const tile of tilesOf(height, width, tiling)) {
    expect(tile.height).toBeLessThanOrEqual(tiling.side + 2 * tiling.margin)
    const part = cut(state, tile)
    expect(part.length).toBe(3 * tile.height * tile.width)
    paste({ data: grown(part, tile.height, tile.width, grows), width: grows * tile.width }, tile, grows, picture)
  }
  const whole = grown(state.data, height, width, grows)
  const colours = picture.data.filter((_, k) => k % 4 !== 3)
  expect([...colours]).toEqual([...whole])
  expect(picture.data.filter((_, k) => k % 4 === 3).every((alpha) => alpha === 255)).toBe(true)
})
