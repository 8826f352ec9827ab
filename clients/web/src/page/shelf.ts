import type { Entry } from '../store/entry'
import { byId, element } from './dom'

const SURE_MS = 4000

/** What the shelf is used for. */
export interface ShelfUses {
  open(entry: Entry): void
  clear(): void
}

/** Small pictures of the history, newest first. */
export class Shelf {
  readonly #list = byId('pictures')
  readonly #clear = byId<HTMLButtonElement>('clear')
  readonly #buttons = new Map<string, HTMLButtonElement>()
  readonly #addresses: string[] = []
  readonly #uses: ShelfUses
  #sure: ReturnType<typeof setTimeout> | undefined

  constructor(uses: ShelfUses) {
    this.#uses = uses
    this.#clear.addEventListener('click', () => this.#askedToClear())
  }

  /** Show these. */
  show(entries: readonly Entry[], current: string | null): void {
    for (const address of this.#addresses.splice(0)) URL.revokeObjectURL(address)
    this.#buttons.clear()
    byId('shelf').hidden = entries.length === 0
    byId('count').textContent = String(entries.length)
    this.#unsure()
    this.#list.replaceChildren(...entries.map((entry) => this.#item(entry)))
    this.mark(current)
  }

  /** Say which one is on the large picture. */
  mark(current: string | null): void {
    for (const [id, button] of this.#buttons) {
      if (id === current) button.setAttribute('aria-current', 'true')
      else button.removeAttribute('aria-current')
    }
  }

  /** While a request runs the large picture is its. */
  lock(locked: boolean): void {
    for (const button of this.#buttons.values()) button.disabled = locked
  }

  #item(entry: Entry): HTMLLIElement {
    const address = URL.createObjectURL(entry.thumbnail)
    this.#addresses.push(address)
    const image = element('img', { src: address, alt: entry.prompt, width: '96', height: '96', decoding: 'async' })
    const button = element('button', { type: 'button', title: entry.prompt }, image)
    button.addEventListener('click', () => this.#uses.open(entry))
    this.#buttons.set(entry.id, button)
    return element('li', {}, button)
  }

  #askedToClear(): void {
    if (this.#sure !== undefined) {
      this.#unsure()
      return this.#uses.clear()
    }
    this.#clear.textContent = 'Really delete all?'
    this.#sure = setTimeout(() => this.#unsure(), SURE_MS)
  }

  #unsure(): void {
    clearTimeout(this.#sure)
    this.#sure = undefined
    this.#clear.textContent = 'Delete all'
  }
}
