/** An OpenID provider on the loopback interface, whose users sign in as soon as they are asked. It is a real one: oauth2-mock-server. */
import { randomBytes } from 'node:crypto'
import { OAuth2Server } from 'oauth2-mock-server'

export interface OAuthProvider {
  readonly issuer: string
  readonly discoveryUrl: string
  /** Chooses who signs in from now on. The first is `alice`. */
  becomes(name: string): void
  /** All tokens that it has issued: secrets of its users. */
  readonly issued: readonly string[]
  /** Those of the last answer. */
  readonly last: { readonly accessToken: string; readonly refreshToken: string; readonly idToken: string }
  /** The refresh tokens that it was given. */
  readonly refreshedWith: readonly string[]
  /** The access tokens with which its users' data were asked for. */
  readonly usedTokens: readonly string[]
  remove(): Promise<void>
}

export async function startOAuthProvider(): Promise<OAuthProvider> {
  const server = new OAuth2Server()
  await server.issuer.keys.generate('RS256')
  await server.start(0, '127.0.0.1')
  const issuer = server.issuer.url as string
  let user = userNamed('alice')
  const issued: string[] = []
  const refreshedWith: string[] = []
  const usedTokens: string[] = []
  const provider = {
    issuer,
    discoveryUrl: `${issuer}/.well-known/openid-configuration`,
    becomes(name: string) {
      user = userNamed(name)
    },
    issued,
    refreshedWith,
    usedTokens,
    last: { accessToken: '', refreshToken: '', idToken: '' },
    remove: () => server.stop(),
  }
  server.service.on('beforeTokenSigning', ({ payload }: { payload: Record<string, unknown> }) => {
    Object.assign(payload, user, { email_verified: true })
  })
  server.service.on('beforeResponse', (response: { body: Record<string, string> }, request: Request) => {
    const { refresh_token } = (request.body ?? {}) as { refresh_token?: string }
    if (refresh_token !== undefined) refreshedWith.push(refresh_token)
    const secret = () => randomBytes(24).toString('hex')
    Object.assign(response.body, { access_token: `access-${secret()}`, refresh_token: `refresh-${secret()}` })
    const { access_token, id_token } = response.body
    provider.last = {
      accessToken: access_token as string,
      refreshToken: response.body.refresh_token as string,
      idToken: id_token as string,
    }
    issued.push(...Object.values(provider.last))
  })
  server.service.on(
    'beforeUserinfo',
    (response: { body: unknown }, request: { headers: Record<string, string> }) => {
      usedTokens.push(String(request.headers.authorization).replace('Bearer ', ''))
      response.body = { ...user, email_verified: true }
    },
  )
  return provider
}

function userNamed(name: string) {
  return { sub: `${name}-at-provider`, email: `${name}@example.com`, name }
}
