import { joined } from '../codec/bytes'
import type { News, Notice, Reply, Session } from '../protocol/session'
import { Shell } from '../protocol/socket'
import { dropOthers } from '../receiver/kept'
import type { Answer, Decoded, Files } from '../receiver/messages'
import { Receiver } from '../receiver/receiver'
import { RUNTIME } from '../receiver/runtime'
import type { Draft } from '../store/draft'
import type { Entry } from '../store/entry'
import type { History } from '../store/history'
import type { Memory } from '../store/memory'
import { byId } from './dom'
import { type Asked, Form, newSeed } from './form'
import { Picture } from './picture'
import { pixelsOf } from './pixels'
import { Result } from './result'
import { bytesOf, entryOf, newRun, partsOf, requestOf, restart, type Run } from './run'
import { canShare, pngOf, save, share } from './saving'
import { Shelf } from './shelf'
import { Status } from './status'

/** Bytes of runtime, graph and codec, unpacked, by which their loading is shown. */
const ABOUT_BYTES = 24.1e6

/** The page: one request at a time, and the history beside it. */
export class App {
  readonly #session: Session
  readonly #memory: Memory
  readonly #draft: Draft
  readonly #history: History
  readonly #shell: Shell
  readonly #receiver = new Receiver((answer) => this.#decoded(answer))
  readonly #form = new Form(
    (asked) => this.#ask(asked),
    (fields) => (this.#draft.form = fields),
  )
  readonly #picture = new Picture()
  readonly #result = new Result()
  readonly #status = new Status()
  readonly #shelf = new Shelf({
    open: (entry) => this.#open(entry),
    clear: () => void this.#forget(this.#history.clear(), 'All pictures are deleted.'),
  })
  #files: Files | null = null
  #run: Run | null = null
  #entry: Entry | null = null
  /** The last whole picture, which comes back where the next one does not come. */
  #whole: { readonly entry: Entry; readonly picture: Decoded } | null = null
  #last: Asked | null = null

  constructor(session: Session, memory: Memory, draft: Draft, history: History) {
    this.#session = session
    this.#memory = memory
    this.#draft = draft
    this.#history = history
    this.#shell = new Shell(session, (news) => this.#heard(news))
    const uses: Readonly<Record<string, () => unknown>> = {
      cancel: () => this.#cancel(),
      retry: () => this.#last && this.#ask(this.#last),
      again: () => this.#entry && this.#ask(this.#entry),
      variation: () => this.#entry && this.#ask({ ...this.#entry, seed: newSeed() }),
      save: async () => this.#entry && save(await pngOf(this.#picture, this.#entry)),
      share: async () => this.#entry && share(await pngOf(this.#picture, this.#entry), this.#entry.prompt),
      delete: () => this.#entry && this.#forget(this.#history.remove(this.#entry.id), 'Deleted.'),
    }
    for (const [id, use] of Object.entries(uses)) byId(id).addEventListener('click', () => void use())
    byId('share').hidden = !canShare()
    byId('token-form').addEventListener('submit', (event) => {
      event.preventDefault()
      this.authorise(byId<HTMLInputElement>('token').value.trim())
    })
  }

  /** Connect, show what is kept, and go on with what was begun. */
  async start(): Promise<void> {
    this.#form.write(this.#draft.form)
    this.#resume()
    this.#history.changed = () => void this.#refresh()
    this.#shell.run(this.#session.renew())
    const entries = await this.#refresh()
    const last = entries[0]
    if (last?.files && this.#run === null && this.#entry === null && this.#files === null) this.#receiver.prepare(last.files, false)
  }

  /** Connect with another token. */
  authorise(token: string): void {
    this.#memory.token = token || null
    byId('token-form').hidden = true
    this.#status.problem(null)
    this.#shell.run(this.#session.renew())
  }

  #ask({ prompt, seed, wishes }: Asked): void {
    if (this.#run !== null || prompt === '') return
    const run = this.#begin({ prompt, seed, wishes }, performance.now())
    this.#shell.run(this.#session.ask(requestOf(run.asked), run.beganMs))
    this.#keep(run)
  }

  /** Go on with the request that was on its way when the page was left. */
  #resume(): void {
    const sent = this.#draft.sent
    if (sent === null) return
    const { id, beganMs, ...asked } = sent
    const run = this.#begin(asked, beganMs - performance.timeOrigin)
    this.#shell.run(this.#session.resume(id, requestOf(asked), run.beganMs))
  }

  #begin(asked: Asked, beganMs: number): Run {
    this.#last = asked
    this.#entry = null
    this.#run = newRun(asked, beganMs)
    this.#busy(true)
    this.#picture.begin()
    this.#status.stage({ at: 'sent' })
    byId('frame').scrollIntoView({ block: 'nearest' })
    return this.#run
  }

  #keep({ asked, beganMs }: Run): void {
    const id = this.#session.request
    if (id !== null) this.#draft.sent = { id, ...asked, beganMs: beganMs + performance.timeOrigin }
  }

  #cancel(): void {
    this.#shell.run(this.#session.cancel())
    this.#stop('Cancelled.')
  }

  #stop(line: string): void {
    if (this.#run?.accepted) this.#receiver.drop(this.#run.accepted.id)
    this.#run = null
    this.#busy(false)
    this.#status.rest(line)
    if (this.#whole === null) return this.#picture.clear()
    const { entry, picture } = this.#whole
    this.#entry = entry
    this.#picture.show(picture, entry.prompt)
    this.#result.show(entry)
    this.#shelf.mark(entry.id)
  }

  #fail(why: string): void {
    this.#stop('')
    this.#status.problem(why)
  }

  #busy(busy: boolean): void {
    byId<HTMLButtonElement>('draw').disabled = busy
    byId('cancel').hidden = !busy
    this.#shelf.lock(busy)
    this.#status.problem(null)
    if (!busy) this.#draft.sent = null
    if (busy) this.#result.hide()
    if (busy) this.#shelf.mark(null)
  }

  #heard(news: News): void {
    if ('kind' in news) this.#heardOf(news)
    else if (news.type === 'welcome') {
      const { backbone, receiver, codec, denoiser, tiles } = news
      this.#form.offer(backbone.steps)
      const { fingerprint, latent_shape: shape } = backbone
      this.#files = receiver && codec ? { fingerprint, shape, receiver, codec, denoiser, tiles } : null
      this.#memory.files = this.#files
      if (this.#files !== null) this.#receiver.prepare(this.#files, this.#memory.decodeS === null)
    } else this.#proceed(news)
  }

  #heardOf(news: Notice): void {
    const run = this.#run
    if (news.kind === 'link') this.#status.link(news.state, news.state === 'waiting' ? news : null, run !== null)
    else if (news.kind === 'unauthorised') {
      if (run !== null) this.#stop('')
      this.#shell.run(this.#session.cancel())
      this.#status.link('unauthorised')
      this.#status.problem(news.why, false)
      byId('token-form').hidden = false
    } else if (run === null) return
    else if (news.kind === 'failed') this.#fail(news.why)
    else if (news.kind === 'again') this.#status.again(news.why, news.ms)
    else if (news.kind === 'anew') {
      if (run.accepted) this.#receiver.drop(run.accepted.id)
      restart(run)
      this.#keep(run)
    } else if (news.kind === 'preview') {
      void this.#picture.preview(new Blob([news.frame.data.slice()], { type: 'image/webp' }), run.asked.prompt)
    } else {
      const { part, data, request } = news.frame
      run.parts.set(part, data)
      const whole = run.parts.size === run.total
      if (run.picture === null) this.#receiver.part(request, part, data)
      else if (whole) void this.#read(request, joined(...partsOf(run)))
      this.#status.stage(whole ? { at: 'decoding' } : { at: 'sending', parts: run.parts.size, of: run.total, bytes: bytesOf(run) })
    }
  }

  #proceed(news: Reply): void {
    const run = this.#run
    if (run === null) return
    if (news.type === 'accepted') {
      if (news.position > 0 || news.position !== run.accepted?.position) this.#status.stage({ at: 'queued', position: news.position })
      run.accepted = news
    } else if (news.type === 'step') this.#status.stage({ at: 'drawing', done: news.done, of: news.of })
    else if (news.type === 'coded') {
      run.total = news.parts
      run.picture = news.picture
      if (this.#files !== null && news.picture === null) this.#receiver.open(news.id, this.#files, news.parts)
    } else if (news.type === 'done') {
      run.done = news
      void this.#settle(run)
    }
  }

  #decoded(answer: Answer): void {
    const [run, entry] = [this.#run, this.#entry]
    if (answer.kind === 'loading') {
      if (run === null || run.parts.size > 0) this.#status.loading(answer.bytes, ABOUT_BYTES)
    } else if (answer.kind === 'ready') {
      this.#status.loaded()
      if (answer.decodeS === null) return
      this.#memory.decoded(answer.decodeS)
      this.#shell.run(this.#session.renew())
    } else if (answer.kind === 'broken') {
      this.#shell.run(this.#session.cancel())
      if (run !== null || !this.#status.offline) this.#fail(`what decodes pictures could not be loaded: ${answer.why}`)
    } else if (answer.kind === 'refused') {
      if (answer.id === run?.accepted?.id) this.#shell.run(this.#session.cancel())
      if (answer.id === (run?.accepted?.id ?? entry?.id)) this.#fail(`this picture cannot be decoded: ${answer.why}`)
    } else if (run !== null && answer.id === run.accepted?.id) {
      this.#picture.show(answer, run.asked.prompt)
      if (!answer.final) return
      run.final = { picture: answer, shownMs: performance.now() }
      void this.#settle(run)
    } else if (answer.id === entry?.id) {
      this.#picture.show(answer, entry.prompt)
      if (answer.final) this.#whole = { entry, picture: answer }
      this.#status.rest(entry.files === null ? 'Kept on this device.' : 'Decoded again on this device.')
    }
  }

  /** A picture that the server decoded. */
  async #read(id: string, file: Entry['payload']): Promise<void> {
    this.#decoded(await pixelsOf(id, file))
  }

  /** The picture is whole and the server has said its part: keep it. */
  async #settle(run: Run): Promise<void> {
    const { done, final, accepted } = run
    if (done === null || final === null || accepted === null || this.#run !== run) return
    if (run.picture === null && !final.picture.cleaned) this.#memory.decoded(final.picture.seconds)
    this.#shell.run(this.#session.shown(accepted.id, final.picture.seconds, (final.shownMs - run.beganMs) / 1000))
    const made = await this.#picture.made()
    if (this.#run !== run) return
    const entry = entryOf(run, run.picture === null ? this.#files : null, made)
    this.#run = null
    this.#entry = entry
    this.#whole = { entry, picture: final.picture }
    this.#busy(false)
    this.#status.rest('Done.')
    this.#result.show(entry)
    await this.#history.keep(entry).catch(() => {
      if (this.#entry === entry && this.#run === null) this.#status.rest('Done. This browser did not keep the picture: save it.')
    })
    await this.#refresh()
  }

  #open(entry: Entry): void {
    if (this.#run !== null) return
    this.#entry = entry
    this.#last = entry
    this.#status.problem(null)
    this.#picture.begin()
    void this.#picture.preview(entry.thumbnail, entry.prompt)
    this.#status.stage({ at: 'decoding' })
    this.#result.show(entry)
    this.#shelf.mark(entry.id)
    const files = this.#filesOf(entry)
    if (files === null) void this.#read(entry.id, entry.payload)
    else this.#receiver.payload(entry.id, files, entry.payload)
    byId('frame').scrollIntoView({ block: 'nearest' })
  }

  /** What decodes a kept picture: the last server's files where they are of its backbone, as its denoiser may be a newer one. */
  #filesOf({ files }: Entry): Files | null {
    const last = this.#files ?? this.#memory.files
    return files !== null && files.fingerprint === last?.fingerprint ? last : files
  }

  async #forget(gone: Promise<void>, line: string): Promise<void> {
    await gone
    this.#entry = this.#whole = null
    this.#picture.clear()
    this.#result.hide()
    this.#status.rest(line)
    await this.#refresh()
  }

  /** Show what is kept, and drop files that none of it needs. */
  async #refresh(): Promise<readonly Entry[]> {
    const entries = await this.#history.all().catch(() => [])
    this.#shelf.show(entries, this.#entry?.id ?? null)
    this.#shelf.lock(this.#run !== null)
    if (this.#files === null) return entries
    const files = [this.#files, ...entries.flatMap((entry) => this.#filesOf(entry) ?? [])]
    const needed = files.flatMap(({ receiver, codec, denoiser, tiles }) => [receiver, codec, denoiser ?? '', tiles?.tail ?? ''])
    await dropOthers([RUNTIME.wasm, ...needed]).catch(() => undefined)
    return entries
  }
}
