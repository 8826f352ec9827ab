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

/** The parts of a prompt, between commas. */
function partsOf(prompt: string): string[] {
  return prompt
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
}

/** Whether a prompt has a phrase as a part of its own. */
export function has(prompt: string, phrase: string): boolean {
  return partsOf(prompt.toLowerCase()).includes(phrase)
}

/** The prompt with a phrase, or without it where it has it; it takes the place of others that cannot stand beside it. */
export function toggled(prompt: string, phrase: string): string {
  const parts = partsOf(prompt)
  if (has(prompt, phrase)) return parts.filter((part) => part.toLowerCase() !== phrase).join(', ')
  const kind = KINDS.find(({ phrases }) => phrases.includes(phrase))
  const rivals = [...(kind?.phrases ?? []), ...rivalsOf(phrase)]
  const place = parts.findIndex((part) => kind?.phrases.includes(part.toLowerCase()))
  const others = parts.filter((part) => !rivals.includes(part.toLowerCase()))
  others.splice(place < 0 ? others.length : Math.min(place, others.length), 0, phrase)
  return others.join(', ')
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
