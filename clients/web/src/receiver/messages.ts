import type { Tiling } from '../protocol/messages'

/** What a receiver is made for, and where the files that decode lie. */
export interface Files {
  readonly fingerprint: number
  /** Channels, height and width of the features. */
  readonly shape: readonly number[]
  readonly receiver: string
  readonly codec: string
  /** What cleans coarse features before; entries that were kept by earlier versions have none. */
  readonly denoiser?: string | null
  /** Where the receiver is in two graphs; likewise. */
  readonly tiles?: Tiling | null
}

/** What the worker is told. */
export type Order =
  | { readonly kind: 'prepare'; readonly files: Files; readonly measure: boolean }
  | { readonly kind: 'open'; readonly id: string; readonly files: Files; readonly total: number }
  | { readonly kind: 'part'; readonly id: string; readonly number: number; readonly data: Uint8Array }
  | { readonly kind: 'drop'; readonly id: string }
  | { readonly kind: 'payload'; readonly id: string; readonly files: Files; readonly data: Uint8Array }

/** A decoded picture. */
export interface Decoded {
  readonly kind: 'picture'
  readonly id: string
  /** Bytes in the order red, green, blue, alpha. */
  readonly rgba: Uint8ClampedArray<ArrayBuffer>
  readonly width: number
  readonly height: number
  /** Feature parts that it was decoded from, of how many. */
  readonly parts: number
  readonly of: number
  readonly final: boolean
  /** Whether its features were cleaned first, which takes longer. */
  readonly cleaned: boolean
  readonly seconds: number
}

/** What the worker says. */
export type Answer =
  | { readonly kind: 'loading'; readonly bytes: number }
  | { readonly kind: 'ready'; readonly decodeS: number | null }
  | { readonly kind: 'broken'; readonly why: string }
  | { readonly kind: 'refused'; readonly id: string; readonly why: string }
  | Decoded
