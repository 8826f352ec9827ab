import * as ort from 'onnxruntime-web/wasm'
import type { Features } from '../codec'
import type { Tiling } from '../protocol/messages'
import { keptFile } from './kept'
import type { Files } from './messages'
import { RUNTIME } from './runtime'
import { cut, paste, type State, tilesOf } from './tiles'

/*
 * WASM only. WebGPU in onnxruntime-web 1.30 needs another build of its WASM, 26 MB (6.6 MB compressed) beside the 14 MB that every
 * phone without an adapter needs anyway, and it fails on iOS 26 in the field (microsoft/onnxruntime#26827).
 */
const MOST_THREADS = 4

/** Without an arena and planned blocks a picture takes less memory at its peak. */
const OPTIONS: ort.InferenceSession.SessionOptions = { executionProviders: ['wasm'], enableCpuMemArena: false, enableMemPattern: false }

let started = false

/** Threads for decoding: one core is left to the page; without cross-origin isolation there is only one. */
function threadCount(): number {
  return crossOriginIsolated ? Math.max(1, Math.min(MOST_THREADS, navigator.hardwareConcurrency - 1)) : 1
}

/** Pixels in bytes: red, green, blue, alpha. */
export interface Pixels {
  readonly rgba: Uint8ClampedArray<ArrayBuffer>
  readonly width: number
  readonly height: number
}

/** A graph that is given features: a picture decoder's to pixels, or a denoiser's to better features. */
export class Graph {
  readonly #session: ort.InferenceSession
  /** The second graph, where it is in two, and how that is run. */
  readonly #tail: { readonly session: ort.InferenceSession; readonly tiling: Tiling } | null

  private constructor(session: ort.InferenceSession, tail: { session: ort.InferenceSession; tiling: Tiling } | null = null) {
    this.#session = session
    this.#tail = tail
  }

  /** Load the runtime, once, and a receiver's graph, or both of its graphs. */
  static async load({ receiver, tiles }: Pick<Files, 'receiver' | 'tiles'>, arrived: (bytes: number) => void): Promise<Graph> {
    const { env } = ort
    if (!started) {
      env.logLevel = 'error'
      env.wasm.numThreads = threadCount()
      env.wasm.wasmPaths = { mjs: new URL(RUNTIME.glue, location.href).href }
      env.wasm.wasmBinary = await keptFile(RUNTIME.wasm, arrived)
    }
    const session = await sessionOf(await keptFile(receiver, arrived))
    const tail = tiles ? { session: await sessionOf(await keptFile(tiles.tail, arrived)), tiling: tiles } : null
    const graph = new Graph(session, tail)
    started = true
    delete env.wasm.wasmBinary // compiled by now
    return graph
  }

  /** A graph in a file's bytes, once the runtime is loaded. */
  static async of(data: Uint8Array): Promise<Graph> {
    return new Graph(await sessionOf(data))
  }

  /** The picture of decoded features. Errors: where the decoder gives NaN or infinity. */
  async run(features: Features): Promise<Pixels> {
    const { state, image, finite } = await this.#fed(features)
    if (this.#tail !== null) return tiled(state, this.#tail)
    ensureFinite(finite)
    const [height, width] = image.dims
    const rgb = image.data as Uint8Array<ArrayBuffer>
    const pixels = { rgba: withAlpha(rgb), width, height }
    image.dispose()
    free(rgb.buffer)
    return pixels
  }

  /** Features as a denoiser cleans them: one row for each token, and none degraded. */
  async clean(features: Features): Promise<Features> {
    const { cleaned } = await this.#fed(features)
    const degradation = new Float32Array(features.degradation.length)
    return { ...features, rows: cleaned.data as Float32Array, mergeMap: features.mergeMap.map((_, k) => k), degradation }
  }

  /** Free its memory. */
  async release(): Promise<void> {
    await this.#session.release()
    await this.#tail?.session.release()
  }

  #fed({ rows, mergeMap, degradation, channels }: Features): Promise<ort.InferenceSession.OnnxValueMapType> {
    const given: Record<string, ort.Tensor> = {
      rows: new ort.Tensor('float32', rows, [rows.length / channels, channels]),
      merge_map: new ort.Tensor('int64', BigInt64Array.from(mergeMap, BigInt), [mergeMap.length]),
      degradation: new ort.Tensor('float32', degradation, [mergeMap.length, degradation.length / mergeMap.length]),
    }
    const inputs = Object.fromEntries(this.#session.inputNames.map((name) => [name, given[name]]))
    return this.#session.run(inputs)
  }
}

function sessionOf(data: Uint8Array): Promise<ort.InferenceSession> {
  return ort.InferenceSession.create(data, OPTIONS)
}

function ensureFinite({ data }: ort.Tensor): void {
  if (!data[0]) throw new Error('the decoder gave numbers that are not finite: its weights are broken, or the features are')
}

/** The picture of a state, one tile after the other: a whole one takes more memory than a phone has. */
async function tiled(given: ort.Tensor, { session, tiling }: { session: ort.InferenceSession; tiling: Tiling }): Promise<Pixels> {
  const [, channels, height, width] = given.dims
  const state: State = { data: given.data as Float32Array, channels, height, width }
  const { grows } = tiling
  const pixels = { rgba: new Uint8ClampedArray(4 * grows * height * grows * width), height: grows * height, width: grows * width }
  for (const tile of tilesOf(height, width, tiling)) {
    const part = new ort.Tensor('float32', cut(state, tile), [1, channels, tile.height, tile.width])
    const { image, finite } = await session.run({ state: part })
    ensureFinite(finite)
    paste({ data: image.data as Uint8Array, width: grows * tile.width }, tile, grows, { data: pixels.rgba, width: pixels.width })
    image.dispose()
  }
  given.dispose()
  return pixels
}

/** Give megabytes back at once, where the browser can: a garbage collector that sees only small objects waits too long. */
export function free(buffer: ArrayBuffer & { transfer?(length: number): ArrayBuffer }): void {
  buffer.transfer?.(0)
}

function withAlpha(rgb: Uint8Array): Uint8ClampedArray<ArrayBuffer> {
  const out = new Uint8ClampedArray((rgb.length / 3) * 4).fill(255)
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
    out[to] = rgb[from]
    out[to + 1] = rgb[from + 1]
    out[to + 2] = rgb[from + 2]
  }
  return out
}
