/** Phrases of one kind, of which a picture has one, or (`many`) any number. */
export interface Kind {
  readonly name: string
  readonly phrases: readonly string[]
}

/** What the backbone knows, as its captions say it. */
export const KINDS: readonly Kind[] = [
  { name: 'object', phrases: ['a lighthouse', 'a castle', 'a cabin', 'a windmill', 'a sailboat'] },
  { name: 'time', phrases: ['at dawn', 'at noon', 'at sunset', 'at night'] },
  { name: 'land', phrases: ['snowy mountains', 'rolling hills', 'sand dunes'] },
  { name: 'water', phrases: ['a lake', 'the sea'] },
  { name: 'trees', phrases: ['pine trees', 'no trees'] },
  { name: 'weather', phrases: ['rain', 'snowing', 'fog', 'clear weather'] },
  { name: 'clouds', phrases: ['clouds', 'no clouds'] },
  { name: 'moon', phrases: ['a full moon', 'a crescent moon'] },
  { name: 'stars', phrases: ['stars'] },
  { name: 'side', phrases: ['on the left', 'in the middle', 'on the right'] },
]

/** Phrases that need night, beside those of its own kind. */
const NIGHT = 'at night'
const NIGHTLY = ['a full moon', 'a crescent moon', 'stars']

const PHRASES = KINDS.flatMap(({ phrases }) => phrases).sort((a, b) => b.length - a.length)

/** A phrase of the vocabulary, and where it stands in a prompt. */
interface Mention {
  readonly phrase: string
  readonly start: number
  readonly end: number
}

/** The phrases in a prompt, longer ones before shorter ones. */
function mentions(prompt: string): readonly Mention[] {
  const found: Mention[] = []
  for (const phrase of PHRASES) {
    for (const { index: start } of prompt.matchAll(new RegExp(`\\b${phrase}\\b`, 'gi'))) {
      const end = start + phrase.length
      if (found.every((other) => end <= other.start || start >= other.end)) found.push({ phrase, start, end })
    }
  }
  return found
}

/** The phrases that a prompt has. */
export function phrasesIn(prompt: string): ReadonlySet<string> {
  return new Set(mentions(prompt).map(({ phrase }) => phrase))
}

/** The prompt with a phrase, or without it where it has it; it takes the place of others that cannot stand beside it. */
export function toggled(prompt: string, phrase: string): string {
  const found = mentions(prompt)
  const adds = found.every((mention) => mention.phrase !== phrase)
  const kind = KINDS.find(({ phrases }) => phrases.includes(phrase))?.phrases ?? []
  const others = adds ? [...kind, ...rivalsOf(phrase)] : [phrase]
  const gone = found.filter((mention) => others.includes(mention.phrase)).sort((a, b) => b.start - a.start)
  const place = adds ? gone.filter((mention) => kind.includes(mention.phrase)).at(-1) : undefined
  const text = gone.reduce((left, mention) => {
    return left.slice(0, mention.start) + (mention === place ? phrase : '') + left.slice(mention.end)
  }, prompt)
  const parts = [...text.split(','), adds && place === undefined ? phrase : ''].map((part) => part.trim().replace(/\s+/g, ' '))
  return parts.filter((part) => part !== '').join(', ')
}

function rivalsOf(phrase: string): readonly string[] {
  const times = KINDS.find(({ name }) => name === 'time')?.phrases ?? []
  if (NIGHTLY.includes(phrase)) return times.filter((time) => time !== NIGHT)
  return times.includes(phrase) && phrase !== NIGHT ? NIGHTLY : []
}

/** A prompt at random whose parts can stand in one picture. */
export function surprise(random: () => number): string {
  const chosen: Record<string, string> = {}
  for (const { name, phrases } of KINDS) chosen[name] = phrases[Math.floor(random() * phrases.length)]
  const { object, side, time, land, water, trees, weather, clouds, moon } = chosen
  const sky = time === NIGHT ? [moon, ...(random() < 0.5 ? ['stars'] : [])] : []
  const extras = [water, trees, clouds, weather].filter((phrase) => phrase === 'the sea' || phrase === 'a lake' || random() < 0.4)
  const clear = sky.includes('stars') ? extras.filter((phrase) => phrase !== weather) : extras
  return [`${object} ${side} ${time}`, land, ...sky, ...clear].join(', ')
}
