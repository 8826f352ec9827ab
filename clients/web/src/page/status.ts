import { byId } from './dom'
import { againText, sentence, type Stage, stageShare, stageText } from './wording'

/** How the connection is. */
export type LinkState = 'connecting' | 'open' | 'waiting' | 'unauthorised'

const LINK_WORDS: Readonly<Record<LinkState, string>> = {
  connecting: 'Connecting',
  open: 'Connected',
  waiting: 'Offline',
  unauthorised: 'No token',
}

/** What is going on: the line under the picture, the sun on its way, the connection, and one error at a time. */
export class Status {
  readonly #line = byId('status')
  readonly #trail = byId('trail')
  readonly #link = byId('link')
  readonly #problem = byId('problem')
  /** What the line is of, where it is of no request. */
  #of: 'loading' | 'link' | null = null

  /** Where the request stands. */
  stage(stage: Stage): void {
    this.#say(stageText(stage))
    const share = Math.round(100 * stageShare(stage))
    this.#trail.hidden = false
    this.#trail.setAttribute('aria-valuenow', String(share))
    this.#trail.style.setProperty('--at', `${share}%`)
  }

  /** Nothing runs; one line on what is shown. */
  rest(line = ''): void {
    this.#trail.hidden = true
    this.#trail.style.removeProperty('--at')
    this.#say(line)
  }

  /** Loading of what decodes; it hides no line on how a request ended. */
  loading(bytes: number, of: number): void {
    if (this.#trail.hidden && !this.#free) return
    const share = Math.min(100, Math.round((100 * bytes) / of))
    this.#say(`Getting this device ready: ${share} %.`, 'loading')
  }

  /** What decodes is ready. */
  loaded(): void {
    if (this.#of === 'loading' && this.#trail.hidden) this.rest()
  }

  /** Whether the line says nothing of a request. */
  get #free(): boolean {
    return this.#trail.hidden && (this.#of !== null || this.#line.textContent === '')
  }

  #say(line: string, of: 'loading' | 'link' | null = null): void {
    if (this.#line.textContent !== line) this.#line.textContent = line
    this.#of = of
  }

  /** The connection as it is now. */
  link(state: LinkState, waiting: { readonly why: string; readonly ms: number; readonly refused: boolean } | null = null, asking = false): void {
    const refusal = waiting?.refused ? waiting.why : null
    const refuses = `The server refuses the connection: ${refusal}.`
    this.#link.dataset['state'] = state
    this.#link.textContent = refusal !== null ? 'Refused' : LINK_WORDS[state]
    if (waiting !== null && asking) this.#say(againText(refusal ?? 'the connection is lost', waiting.ms))
    else if (refusal !== null && this.#free) this.#say(refuses, 'link')
    else if (state !== 'connecting' && this.#of === 'link') this.#say('')
    byId('offline').hidden = state !== 'waiting'
    const without = refusal !== null ? refuses : 'There is no connection to the server.'
    byId('offline').textContent = `${without} Your pictures still open: they are decoded on this device.`
  }

  /** The server has the request wait. */
  again(why: string, ms: number): void {
    this.#say(againText(why, ms))
  }

  /** Whether there is no connection to the server. */
  get offline(): boolean {
    return this.#link.dataset['state'] !== 'open'
  }

  /** What went wrong, in one sentence; null: nothing. */
  problem(why: string | null, retry = true): void {
    this.#problem.hidden = why === null
    byId('problem-text').textContent = why === null ? '' : sentence(why)
    byId('retry').hidden = !retry
  }
}
