import type { Wishes } from '../store/entry'
import { byId, element } from './dom'
import { KINDS, phrasesIn, surprise, toggled } from './vocabulary'

const MOST_SEEDS = 2 ** 31

/** What the form asks for. */
export interface Asked {
  readonly prompt: string
  readonly seed: number
  readonly wishes: Wishes
}

/** A seed at random. */
export function newSeed(): number {
  return Math.floor(Math.random() * MOST_SEEDS)
}

/** Prompt, chips and options. */
export class Form {
  readonly #form = byId<HTMLFormElement>('ask')
  readonly #prompt = byId<HTMLTextAreaElement>('prompt')
  readonly #chips = new Map<string, HTMLButtonElement>()

  readonly #keep: (fields: Readonly<Record<string, unknown>>) => void

  constructor(ask: (asked: Asked) => void, keep: (fields: Readonly<Record<string, unknown>>) => void) {
    this.#keep = keep
    this.#makeChips()
    this.#form.addEventListener('input', () => this.#changed())
    this.#form.addEventListener('invalid', ({ target }) => openAround(target), true)
    this.#prompt.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
      event.preventDefault()
      this.#form.requestSubmit()
    })
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault()
      if (!byId<HTMLButtonElement>('draw').disabled) ask(this.#read())
    })
    byId('surprise').addEventListener('click', () => {
      this.#prompt.value = surprise(Math.random)
      this.#changed()
    })
  }

  /** Offer only steps that the backbone has. */
  offer(steps: readonly number[]): void {
    for (const input of this.#form.querySelectorAll<HTMLInputElement>('input[name=steps]')) {
      input.disabled = input.value !== '' && !steps.includes(Number(input.value))
    }
  }

  /** Fill in the fields that were kept. */
  write(fields: Readonly<Record<string, unknown>>): void {
    for (const [name, value] of Object.entries(fields)) {
      const field = this.#form.elements.namedItem(name)
      if (field !== null) Object.assign(field, { value: String(value) })
    }
    this.#press()
  }

  #read(): Asked {
    const data = new FormData(this.#form)
    const number = (name: string) => {
      const value = String(data.get(name) ?? '')
      return value === '' ? null : Number(value)
    }
    const wishes = { steps: number('steps'), deadlineS: number('deadline'), energyJ: number('energy') }
    return { prompt: this.#prompt.value.trim(), seed: number('seed') ?? newSeed(), wishes }
  }

  #makeChips(): void {
    for (const { name, phrases } of KINDS) {
      const group = element('div', { class: 'kind', role: 'group', 'aria-label': name })
      for (const phrase of phrases) {
        const chip = element('button', { type: 'button', class: 'chip', 'aria-pressed': 'false' }, phrase)
        chip.addEventListener('click', () => {
          this.#prompt.value = toggled(this.#prompt.value, phrase)
          this.#changed()
        })
        this.#chips.set(phrase, chip)
        group.append(chip)
      }
      byId('chips').append(group)
    }
  }

  #changed(): void {
    this.#press()
    this.#keep(Object.fromEntries(new FormData(this.#form)))
  }

  #press(): void {
    const said = phrasesIn(this.#prompt.value)
    for (const [phrase, chip] of this.#chips) chip.setAttribute('aria-pressed', String(said.has(phrase)))
  }
}

/** Open the details that hide a field, so that the browser can point at it. */
function openAround(field: EventTarget | null): void {
  const details = field instanceof Element ? field.closest('details') : null
  if (details !== null) details.open = true
}
