/** A browser with cookies, in front of a Better Auth and of OAuth providers that redirect back to it. */
export interface AuthHandler {
  handler(request: Request): Promise<Response>
}

export const AUTH_URL = 'http://localhost:3000'

export class AuthBrowser {
  readonly #auth: AuthHandler
  readonly #cookies = new Map<string, string>()

  constructor(auth: AuthHandler) {
    this.#auth = auth
  }

  /** @throws with the status and the body, unless it is a success */
  async post<T = Record<string, unknown>>(path: string, body: object = {}): Promise<T> {
    const response = await this.#request(path, { method: 'POST', body: JSON.stringify(body) })
    return (await succeeded(path, response)) as T
  }

  async get<T = Record<string, unknown>>(path: string): Promise<T> {
    return (await succeeded(path, await this.#request(path, { method: 'GET' }))) as T
  }

  /** Goes to a provider and comes back. @returns where Better Auth sends the browser in the end */
  async through(providerUrl: string): Promise<string> {
    const redirect = await fetch(providerUrl, { redirect: 'manual' })
    const callback = new URL(redirect.headers.get('location') as string)
    const response = await this.#request(`${callback.pathname.replace('/api/auth', '')}${callback.search}`, {
      method: 'GET',
    })
    return `${response.status} ${response.headers.get('location')}`
  }

  async signInWith(provider: string): Promise<string> {
    const { url } = await this.post<{ url: string }>('/sign-in/social', { provider, callbackURL: '/done' })
    return this.through(url)
  }

  async link(provider: string): Promise<string> {
    const { url } = await this.post<{ url: string }>('/link-social', { provider, callbackURL: '/done' })
    return this.through(url)
  }

  /** Forgets who was signed in. */
  clear(): void {
    this.#cookies.clear()
  }

  async #request(path: string, init: RequestInit): Promise<Response> {
    const cookie = Array.from(this.#cookies, ([name, value]) => `${name}=${value}`).join('; ')
    const headers = { origin: AUTH_URL, 'content-type': 'application/json', ...(cookie ? { cookie } : {}) }
    const response = await this.#auth.handler(
      new Request(`${AUTH_URL}/api/auth${path}`, { ...init, headers }),
    )
    for (const line of response.headers.getSetCookie()) {
      const [pair = ''] = line.split(';')
      const at = pair.indexOf('=')
      if (/max-age=0/i.test(line)) this.#cookies.delete(pair.slice(0, at))
      else this.#cookies.set(pair.slice(0, at), pair.slice(at + 1))
    }
    return response
  }
}

async function succeeded(path: string, response: Response): Promise<unknown> {
  const text = await response.text()
  if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`)
  return text === '' ? {} : JSON.parse(text)
}
