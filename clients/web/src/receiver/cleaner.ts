import type { Features } from '../codec'
import { Graph } from './graph'
import { isKept, keptFile } from './kept'

/** Mean degradation of a token from which on features are cleaned, as in Python (`megen.ue.receiver`). */
const DEGRADED = 0.1
/** And from which on the 11.6 MB of what cleans are worth fetching: half a decibel (experiments/phone_denoiser). */
const WORTH_FETCHING = 0.35

/** The file, where the browser keeps none (neither https nor localhost). */
let held: { readonly path: string; readonly data: Uint8Array } | null = null
let fetching: string | null = null

/** The mean over tokens of their largest degradation. */
export function degradationOf({ degradation, mergeMap: { length: tokens } }: Features): number {
  const states = degradation.length / tokens
  let sum = 0
  for (let k = 0; k < tokens; k++) sum += Math.max(...degradation.subarray(k * states, (k + 1) * states))
  return sum / tokens
}

/** Features as the denoiser in `path` cleans them, or as they are where they are fine or its file is not here yet. */
export async function cleaned(features: Features, path: string | null): Promise<Features> {
  if (path === null || degradationOf(features) <= DEGRADED) return features
  const there = held?.path === path ? held.data : (await isKept(path)) ? await keptFile(path) : null
  if (there === null) return features
  const graph = await Graph.of(there) // not held: its memory is the picture decoder's afterwards
  try {
    return await graph.clean(features)
  } finally {
    await graph.release()
  }
}

/** Fetch what would have cleaned these features, for the next ones, where that pays and the person does not save data. */
export async function fetchCleaner(features: Features, path: string | null): Promise<void> {
  const { connection } = navigator as { readonly connection?: { readonly saveData?: boolean } }
  if (path === null || degradationOf(features) <= WORTH_FETCHING || connection?.saveData) return
  if (fetching !== null || held?.path === path || (await isKept(path))) return
  fetching = path
  try {
    const data = await keptFile(path, undefined, 'low')
    if (!(await isKept(path))) held = { path, data }
  } finally {
    fetching = null
  }
}
