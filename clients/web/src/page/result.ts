import type { Entry } from '../store/entry'
import { energyOf, type Spans, spansOf } from './breakdown'
import { byId, element } from './dom'
import { WEBP_QUALITY } from './picture'
import { joules, seconds, size, times } from './wording'

const PLACES: readonly (readonly [keyof Spans, string])[] = [
  ['queue', 'waiting'],
  ['server', 'edge server'],
  ['air', 'link'],
  ['device', 'this device'],
]

/** Longer texts of a caption are cut short until they are opened. */
const SHORT_CHARS = 160

/** What is said of a picture. */
export class Result {
  readonly #section = byId('result')

  /** Nothing to tell. */
  hide(): void {
    this.#section.hidden = true
    byId('actions').hidden = true
    byId('caption').replaceChildren()
  }

  /** Tell of a picture. */
  show(entry: Entry): void {
    byId('actions').hidden = false
    this.#section.hidden = false
    byId('caption').replaceChildren(...captionOf(entry))
    this.#sizes(entry)
    this.#seconds(entry)
    this.#facts(entry)
  }

  #sizes({ payload, png, webp }: Entry): void {
    const files = [png, ...(webp === null ? [] : [webp])]
    const quality = webp === null ? '' : `, WebP at quality ${100 * WEBP_QUALITY}`
    byId('small').replaceChildren(element('strong', {}, size(payload.length)), ` crossed for it. The same picture as a file of this browser${quality}:`)
    const most = Math.max(...files, payload.length)
    const rows: (readonly [string, number, string])[] = [['crossed', payload.length, 'mine']]
    if (webp !== null) rows.push(['WebP', webp, 'other'])
    rows.push(['PNG', png, 'other'])
    byId('sizes').replaceChildren(
      ...rows.flatMap(([name, bytes, kind]) => {
        const bar = element('span', { class: `bar ${kind}` })
        bar.style.setProperty('--share', String(bytes / most))
        const figure = element('span', { class: 'figure' }, size(bytes))
        if (kind === 'other') figure.append(element('i', {}, ` ×\u202f${times(bytes / payload.length)}`))
        return [element('dt', {}, name), element('dd', {}, bar, figure)]
      }),
    )
  }

  #seconds(entry: Entry): void {
    const spans = spansOf(entry)
    byId('whole').replaceChildren(element('strong', {}, seconds(entry.latencyS)), ' from your tap to the picture.')
    const shown = PLACES.filter(([key]) => key !== 'queue' || spans.queue >= 0.05)
    byId('spans').replaceChildren(
      ...shown.map(([key]) => {
        const part = element('span', { class: key })
        part.style.setProperty('--share', String(spans[key]))
        return part
      }),
    )
    byId('legend').replaceChildren(...shown.map(([key, name]) => element('li', { class: key }, `${name} `, element('b', {}, seconds(spans[key])))))
  }

  #facts({ decision, fits, seed, report, bytes, reconnects }: Entry): void {
    const { steps, merge_ratio: merged, quantiser_bits: bits } = decision
    const energy = energyOf(report)
    const facts: (readonly [string, string])[] = [
      ['Steps', String(steps)],
      ['Patches merged', merged === 0 ? 'none' : `${Math.round(100 * merged)} %`],
      ['Bits a value, at most', String(bits)],
      ['Seed', String(seed)],
      ['All that arrived', `${size(bytes)} with previews and messages`],
    ]
    if (energy !== null) facts.push([`Server's energy${energy.modelled ? ', modelled' : ''}`, joules(energy.joules)])
    if (fits === false) facts.push(['Your limit', 'could not be promised'])
    if (reconnects > 0) facts.push(['Connection', reconnects === 1 ? 'lost once, and resumed' : `lost ${reconnects} times, and resumed`])
    byId('facts').replaceChildren(...facts.flatMap(([name, value]) => [element('dt', {}, name), element('dd', {}, value)]))
  }
}

function captionOf({ prompt, added, missing, conflict }: Entry): Node[] {
  const nodes: Node[] = [lineOf('said', prompt)]
  if (added.length > 0) nodes.push(lineOf('added', `added: ${added.join(', ')}`))
  if (conflict) nodes.push(lineOf('missing', conflict))
  if (missing.length > 0) nodes.push(lineOf('missing', `not in this world: ${missing.join(', ')}`))
  return nodes
}

function lineOf(kind: string, text: string): Node {
  if (text.length <= SHORT_CHARS) return element('span', { class: kind }, text)
  return element('details', { class: kind }, element('summary', {}, text))
}
