import { joined } from '../codec/bytes'
import type { Accepted, Generate } from '../protocol/messages'
import type { Decoded } from '../receiver/messages'
import { packPayload } from '../store/pack'
import type { Entry } from '../store/entry'
import type { Asked } from './form'

/** A request in transit, and what of it has arrived. */
export interface Run {
  readonly asked: Asked
  readonly beganMs: number
  readonly parts: Map<number, Uint8Array>
  accepted: Accepted | null
  total: number
  /** The type of the file that the parts make, where the server decodes. */
  picture: string | null
  done: { readonly report: Entry['report']; readonly bytes: number; readonly reconnects: number } | null
  final: { readonly picture: Decoded; readonly shownMs: number } | null
}

/** A request that was just made. */
export function newRun(asked: Asked, beganMs: number): Run {
  return { asked, beganMs, parts: new Map(), accepted: null, total: 0, picture: null, done: null, final: null }
}

/** What the server is asked; what is left to it is left out. */
export function requestOf({ prompt, seed, wishes: { steps, deadlineS, energyJ } }: Asked): Omit<Generate, 'type' | 'id'> {
  return {
    prompt,
    seed,
    ...(steps === null ? {} : { steps }),
    ...(deadlineS === null ? {} : { deadline_s: deadlineS }),
    ...(energyJ === null ? {} : { energy_j: energyJ }),
  }
}

/** The server begins again: nothing of what arrived is of use. */
export function restart(run: Run): void {
  run.parts.clear()
  run.accepted = run.done = run.final = run.picture = null
  run.total = 0
}

/** How many bytes arrived. */
export function bytesOf({ parts }: Run): number {
  return [...parts.values()].reduce((sum, data) => sum + data.length, 0)
}

/** What arrived, in order. */
export function partsOf({ parts, total }: Run): Uint8Array[] {
  return Array.from({ length: total }, (_, number) => parts.get(number) ?? new Uint8Array(0))
}

/** The picture as it is kept, once the server's report and the last picture are there; image files of it are added. */
export function entryOf(run: Run, files: Entry['files'], made: Pick<Entry, 'png' | 'webp' | 'thumbnail'>): Entry {
  const { asked, accepted, done, final } = run
  if (accepted === null || done === null || final === null) throw new Error('the picture is not whole yet')
  const parts = partsOf(run)
  const { id, decision, fits, added, missing, conflict } = accepted
  return {
    id,
    madeMs: Date.now(),
    ...asked,
    decision,
    fits,
    added,
    missing,
    conflict,
    payload: files === null ? joined(...parts) : packPayload(parts),
    files,
    ...done,
    latencyS: (final.shownMs - run.beganMs) / 1000,
    decodeS: final.picture.seconds,
    ...made,
  }
}
