import type { Entry } from '../store/entry'

/** Seconds of one picture by where they passed. */
export interface Spans {
  readonly queue: number
  readonly server: number
  readonly air: number
  readonly device: number
}

const SERVER_STAGES = ['text', 'denoise', 'merge', 'code', 'es_decode']

/** Where the seconds of a picture passed; the link's are what neither side has measured. */
export function spansOf({ report, latencyS, decodeS }: Pick<Entry, 'report' | 'latencyS' | 'decodeS'>): Spans {
  const stages = objectIn(report, 'latency_s')
  const server = SERVER_STAGES.reduce((sum, stage) => sum + numberIn(stages, stage), 0)
  const queue = numberIn(stages, 'queue')
  return { queue, server, air: Math.max(0, latencyS - queue - server - decodeS), device: decodeS }
}

/** Joules of the edge server, and whether they are modelled; null where the report has none. */
export function energyOf(report: Entry['report']): { readonly joules: number; readonly modelled: boolean } | null {
  const joules = objectIn(report, 'energy_j')['es']
  if (typeof joules !== 'number') return null
  const modelled = report['modelled']
  return { joules, modelled: Array.isArray(modelled) && modelled.includes('energy_j.es') }
}

function objectIn(from: Readonly<Record<string, unknown>>, key: string): Readonly<Record<string, unknown>> {
  const value = from[key]
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : {}
}

function numberIn(from: Readonly<Record<string, unknown>>, key: string): number {
  const value = from[key]
  return typeof value === 'number' && Number.isFinite(value) ? value : 0
}
