import { dictionary, fields, finite, optional, text, whole } from '../protocol/checks'
import { id } from '../protocol/read'
import { PATIENCE_MS } from '../protocol/session'
import type { Entry, Wishes } from './entry'

const FORM = 'megen.form'
const SENT = 'megen.sent'

/** A request on its way, and when it began, in milliseconds since 1970. */
export type Sent = Pick<Entry, 'id' | 'prompt' | 'seed' | 'wishes'> & { readonly beganMs: number }

/** What a tab remembers when it is loaded again: the form's fields, and the request on its way. */
export class Draft {
  readonly #storage: Storage | null

  constructor(storage: Storage | null) {
    this.#storage = storage
  }

  get form(): Readonly<Record<string, unknown>> {
    return this.#read(FORM, dictionary) ?? {}
  }

  set form(value: Readonly<Record<string, unknown>>) {
    this.#keep(FORM, value)
  }

  /** The request on its way, while the server keeps it. */
  get sent(): Sent | null {
    const sent = this.#read(SENT, check)
    return sent !== null && Date.now() - sent.beganMs < PATIENCE_MS ? sent : null
  }

  set sent(value: Sent | null) {
    this.#keep(SENT, value)
  }

  #read<T>(key: string, check: (value: unknown, where: string) => T): T | null {
    try {
      return check(JSON.parse(this.#storage?.getItem(key) ?? 'null'), key)
    } catch {
      return null
    }
  }

  #keep(key: string, value: unknown): void {
    try {
      this.#storage?.setItem(key, JSON.stringify(value))
    } catch {
      // full, or forbidden: it is lost with the page
    }
  }
}

const wish = optional(finite, null)
const check = fields<Sent>({
  id,
  prompt: text,
  seed: whole(0, Number.MAX_SAFE_INTEGER),
  wishes: fields<Wishes>({ steps: wish, deadlineS: wish, energyJ: wish }),
  beganMs: finite,
})
