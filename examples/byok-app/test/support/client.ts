/** A browser without a screen: cookies and forms over fetch. For what a real browser would not send. */
import { randomInt } from 'node:crypto'

export const PASSWORD = 'correct horse battery staple'

export interface Page {
  readonly status: number
  readonly headers: Headers
  readonly text: string
}

export class Client {
  readonly origin: string
  readonly cookies = new Map<string, string>()
  readonly address = `10.${randomInt(256)}.${randomInt(256)}.${randomInt(1, 255)}`

  constructor(origin: string) {
    this.origin = origin
  }

  get(path: string, headers: Readonly<Record<string, string>> = {}): Promise<Page> {
    return this.request(path, { headers })
  }

  /** Sends a form as a page of the application would, with the token of its session. */
  async post(path: string, fields: Readonly<Record<string, string>> = {}): Promise<Page> {
    return this.send(path, { csrf: await this.csrfToken(), ...fields })
  }

  /** Sends a form as it is. */
  send(
    path: string,
    fields: Readonly<Record<string, string>>,
    headers: Readonly<Record<string, string>> = {},
  ) {
    return this.request(path, {
      method: 'POST',
      body: new URLSearchParams(fields).toString(),
      headers: { 'content-type': 'application/x-www-form-urlencoded', origin: this.origin, ...headers },
    })
  }

  async csrfToken(): Promise<string> {
    return /name="csrf" value="([^"]+)"/.exec((await this.get('/account')).text)?.[1] ?? ''
  }

  async signUp(email: string, name = 'Someone'): Promise<this> {
    const { status } = await this.send('/sign-up', { name, email, password: PASSWORD })
    if (status !== 303) throw new Error(`sign-up: ${status}`)
    return this
  }

  /** Adds a key. @returns its id */
  async addKey(apiKey: string, fields: Readonly<Record<string, string>> = {}): Promise<string> {
    const { status, text } = await this.post('/keys', {
      provider: 'openai',
      label: 'My key',
      apiKey,
      ...fields,
    })
    if (status !== 303) throw new Error(`adding a key: ${status} ${text}`)
    return (await this.keyIds()).at(-1) ?? ''
  }

  async keyIds(): Promise<string[]> {
    return Array.from(
      (await this.get('/keys')).text.matchAll(/href="\/keys\/([^"]+)"/g),
      ([, id]) => id ?? '',
    )
  }

  async request(path: string, init: RequestInit): Promise<Page> {
    const headers = new Headers(init.headers)
    const cookie = Array.from(this.cookies, ([name, value]) => `${name}=${value}`).join('; ')
    if (cookie !== '') headers.set('cookie', cookie)
    if (!headers.has('x-forwarded-for')) headers.set('x-forwarded-for', this.address)
    const response = await fetch(`${this.origin}${path}`, { ...init, headers, redirect: 'manual' })
    for (const line of response.headers.getSetCookie()) {
      const [pair = ''] = line.split(';')
      const at = pair.indexOf('=')
      if (/max-age=0/i.test(line)) this.cookies.delete(pair.slice(0, at))
      else this.cookies.set(pair.slice(0, at), pair.slice(at + 1))
    }
    return { status: response.status, headers: response.headers, text: await response.text() }
  }
}
