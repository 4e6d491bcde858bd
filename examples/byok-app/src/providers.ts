/**
 * The providers whose keys people may bring. The list is fixed, and so is where their keys are sent: a URL that a person could give would
 * let them reach whatever this server reaches.
 */
import type { Config } from './config.js'

export interface Provider {
  readonly id: string
  readonly name: string
  /** Where people get a key. */
  readonly console: string
  /** What its keys begin with, as an example in the form. */
  readonly example: string
  readonly baseUrl: string
  /** A request that costs nothing and needs a valid key. */
  readonly check: { readonly path: string; readonly headers: (apiKey: string) => Record<string, string> }
}

const bearer = (apiKey: string) => ({ authorization: `Bearer ${apiKey}` })

const PROVIDERS: readonly Provider[] = [
  {
    id: 'openai',
    name: 'OpenAI',
    console: 'https://platform.openai.com/api-keys',
    example: 'sk-proj-…',
    baseUrl: 'https://api.openai.com',
    check: { path: '/v1/models', headers: bearer },
  },
  {
    id: 'anthropic',
    name: 'Anthropic',
    console: 'https://console.anthropic.com/settings/keys',
    example: 'sk-ant-…',
    baseUrl: 'https://api.anthropic.com',
    check: {
      path: '/v1/models',
      headers: (apiKey) => ({ 'x-api-key': apiKey, 'anthropic-version': '2023-06-01' }),
    },
  },
  {
    id: 'google',
    name: 'Google Gemini',
    console: 'https://aistudio.google.com/apikey',
    example: 'AIza…',
    baseUrl: 'https://generativelanguage.googleapis.com',
    check: { path: '/v1beta/models', headers: (apiKey) => ({ 'x-goog-api-key': apiKey }) },
  },
  {
    id: 'mistral',
    name: 'Mistral',
    console: 'https://console.mistral.ai/api-keys',
    example: '32 letters and digits',
    baseUrl: 'https://api.mistral.ai',
    check: { path: '/v1/models', headers: bearer },
  },
  {
    id: 'openrouter',
    name: 'OpenRouter',
    console: 'https://openrouter.ai/keys',
    example: 'sk-or-…',
    baseUrl: 'https://openrouter.ai/api',
    check: { path: '/v1/key', headers: bearer },
  },
]

/** How a check ended. */
export type CheckResult = 'works' | 'refused' | 'limited' | 'unreachable' | 'unclear'

export class Providers {
  readonly all: readonly Provider[]

  constructor({ providerUrl }: Pick<Config, 'providerUrl'>) {
    this.all = PROVIDERS.map((provider) => ({
      ...provider,
      baseUrl: (providerUrl(provider.id) ?? provider.baseUrl).replace(/\/$/, ''),
    }))
  }

  find(id: string): Provider | null {
    return this.all.find((provider) => provider.id === id) ?? null
  }
}

const TIME_LIMIT_MS = 10_000

/** Asks the provider whether it takes the key. Reads nothing of the answer but its status, and follows no redirect: the key would go along. */
export async function checkKey({ baseUrl, check }: Provider, apiKey: string): Promise<CheckResult> {
  let response: Response
  try {
    response = await fetch(`${baseUrl}${check.path}`, {
      headers: check.headers(apiKey),
      redirect: 'manual',
      signal: AbortSignal.timeout(TIME_LIMIT_MS),
    })
  } catch {
    return 'unreachable'
  }
  await response.body?.cancel().catch(() => undefined)
  if (response.ok) return 'works'
  if (response.status === 401 || response.status === 403 || response.status === 400) return 'refused'
  if (response.status === 429) return 'limited'
  return response.status >= 500 ? 'unreachable' : 'unclear'
}
