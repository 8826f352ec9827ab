import type { Choice } from '../protocol/messages'
import type { Files } from '../receiver/messages'

/** What the options asked for; null: left to the server. */
export interface Wishes {
  readonly steps: number | null
  readonly deadlineS: number | null
  readonly energyJ: number | null
}

/** A picture as it is kept: not its pixels, but what crossed the link. */
export interface Entry {
  readonly id: string
  readonly madeMs: number
  readonly prompt: string
  readonly seed: number
  readonly wishes: Wishes
  readonly decision: Choice
  readonly fits: boolean | null
  readonly added: readonly string[]
  readonly missing: readonly string[]
  readonly conflict?: string | null
  /** The payload as it lies in a file, or without `files` the picture's own, which the server decoded. */
  readonly payload: Uint8Array<ArrayBuffer>
  readonly files: Files | null
  readonly report: Readonly<Record<string, unknown>>
  /** That arrived for this request, previews included. */
  readonly bytes: number
  readonly reconnects: number
  readonly latencyS: number
  readonly decodeS: number
  /** Bytes of the same picture as image files, made in this browser; WebP is null where it cannot make one. */
  readonly png: number
  readonly webp: number | null
  readonly thumbnail: Blob
}
