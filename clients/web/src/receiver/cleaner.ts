import type { Features } from '../codec'
import { free, Graph } from './graph'
import { drop, isKept, keptFile } from './kept'

/** Degradation from which on features of bits are cleaned, as in Python (`megen.ue.receiver`). */
const DEGRADED = 0.19
/** And from which on its 11.6 MB are worth fetching: a third of a decibel of a coarse quantiser (experiments/phone_denoiser). */
const WORTH_FETCHING = 0.35

/** The file, where the browser keeps none (neither https nor localhost). */
let held: { readonly path: string; readonly data: Uint8Array<ArrayBuffer> } | null = null
let fetching: string | null = null
/** A file that did not clean; it is not tried again in this visit, nor kept for the next. */
let broken: string | null = null

/** The root mean square over tokens of their largest degradation. */
export function degradationOf({ degradation, mergeMap: { length: tokens } }: Features): number {
  const states = degradation.length / tokens
  let sum = 0
  for (let k = 0; k < tokens; k++) sum += Math.max(...degradation.subarray(k * states, (k + 1) * states)) ** 2
  return Math.sqrt(sum / tokens)
}

/**
 * Features as the denoiser in `path` cleans them, or as they are where they are fine, its file is not here yet or does not work: a
 * picture without it is better than none.
 */
export async function cleaned(features: Features, path: string | null): Promise<Features> {
  if (path === null || path === broken || degradationOf(features) <= DEGRADED) return features
  if (held?.path !== path && !(await isKept(path))) return features
  try {
    return await clean(features, path)
  } catch {
    broken = path
    await drop(path)
    return features
  }
}

/** Its session is not held: its memory is the picture decoder's afterwards. */
async function clean(features: Features, path: string): Promise<Features> {
  const data = held?.path === path ? held.data : await keptFile(path)
  const graph = await Graph.of(data)
  if (held?.data !== data) free(data.buffer)
  try {
    return await graph.clean(features)
  } finally {
    await graph.release()
  }
}

/** Fetch what would have cleaned these features, for the next ones, where that pays and the person does not save data. */
export async function fetchCleaner(features: Features, path: string | null): Promise<void> {
  const { connection } = navigator as { readonly connection?: { readonly saveData?: boolean } }
  if (path === null || path === broken || degradationOf(features) <= WORTH_FETCHING || connection?.saveData) return
  if (held?.path === path || (await isKept(path)) || fetching !== null) return
  fetching = path
  try {
    const data = await keptFile(path, undefined, 'low')
    if (!(await isKept(path))) held = { path, data }
  } finally {
    fetching = null
  }
}
