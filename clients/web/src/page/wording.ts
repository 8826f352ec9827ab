/** Bytes in kB or MB of 1000. */
export function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} bytes`
  const [value, unit] = bytes < 999_500 ? [bytes / 1000, 'kB'] : [bytes / 1e6, 'MB']
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${unit}`
}

/** Seconds with two or three figures. */
export function seconds(value: number): string {
  return `${value < 9.995 ? value.toFixed(2) : value.toFixed(1)} s`
}

/** Joules, whole ones. */
export function joules(value: number): string {
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} J`
}

/** How many times as large, for people. */
export function times(ratio: number): string {
  return ratio < 9.95 ? ratio.toFixed(1) : String(Math.round(ratio))
}

/** A message as a sentence. */
export function sentence(text: string): string {
  const trimmed = text.trim()
  if (trimmed === '') return ''
  return trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? '' : '.')
}

/** Where a request stands. */
export type Stage =
  | { readonly at: 'sent' }
  | { readonly at: 'decoding' }
  | { readonly at: 'queued'; readonly position: number }
  | { readonly at: 'drawing'; readonly done: number; readonly of: number }
  | { readonly at: 'sending'; readonly parts: number; readonly of: number; readonly bytes: number }

/** Where a request stands, in words. */
export function stageText(stage: Stage): string {
  if (stage.at === 'sent') return 'Asking the server.'
  if (stage.at === 'decoding') return 'Developing the picture on this device.'
  if (stage.at === 'queued') return stage.position > 0 ? `In line, ${stage.position} ahead of you.` : 'The server begins.'
  if (stage.at === 'drawing') return `Drawing, step ${stage.done} of ${stage.of}.`
  return `${size(stage.bytes)} received, part ${stage.parts} of ${stage.of}.`
}

/** Where a request stands, from 0 to 1: three quarters for the server, the rest for link and device. */
export function stageShare(stage: Stage): number {
  if (stage.at === 'drawing') return 0.05 + (0.7 * stage.done) / Math.max(1, stage.of)
  if (stage.at === 'sending') return 0.75 + (0.1 * stage.parts) / Math.max(1, stage.of)
  return stage.at === 'decoding' ? 0.9 : 0.02
}

/** Why the server has a request wait, and when it is asked again. */
export function againText(why: string, ms: number): string {
  return `${sentence(why.replace(/[:,] try again in \d+ s$/, ''))} Trying again in ${waitText(ms)}.`
}

/** How many seconds until another try, rounded up. */
export function waitText(ms: number): string {
  return `${Math.max(1, Math.ceil(ms / 1000))} s`
}
