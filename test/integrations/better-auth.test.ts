/** Better Auth itself over an encrypting adapter, with users of an OpenID provider: what it can do, and what is in its database. */
import type { BetterAuthOptions } from 'better-auth'
import { betterAuth } from 'better-auth'
import { genericOAuth, jwt, magicLink, twoFactor } from 'better-auth/plugins'
import { describe, expect, it } from 'vitest'
import { AUTH_URL, AuthBrowser } from '../support/better-auth-browser.js'
import { betterAuthDatabase } from '../support/better-auth-database.js'
import { dialects } from '../support/databases.js'
import { ofEachTest } from '../support/each-test.js'
import { startOAuthProvider } from '../support/oauth-provider.js'

const SECRET = 'a secret of thirty-two characters'
const TOKEN = /^v3:[\w-]{102,}$/
const password = 'correct horse battery staple'

interface BackupCodes {
  viewBackupCodes(call: { body: { userId: string } }): Promise<{ backupCodes: string[] }>
}

describe.each(dialects)('Better Auth on %s', (dialect) => {
  const transaction = dialect === 'postgres'
  const database = ofEachTest(() => betterAuthDatabase(dialect))
  const provider = ofEachTest(startOAuthProvider)

  /** A Better Auth with its tables made, and a browser in front of it. */
  async function started(extra: BetterAuthOptions = {}) {
    const options: BetterAuthOptions = {
      baseURL: AUTH_URL,
      secret: SECRET,
      emailAndPassword: { enabled: true },
      account: { accountLinking: { trustedProviders: ['provider', 'other'] } },
      user: { deleteUser: { enabled: true } },
      logger: { level: 'error' },
      rateLimit: { enabled: false },
      ...extra,
      plugins: [
        genericOAuth({
          config: ['provider', 'other'].map((providerId) => ({
            providerId,
            discoveryUrl: provider.discoveryUrl,
            clientId: 'application',
            clientSecret: 'client-secret',
            scopes: ['openid', 'email'],
          })),
        }),
        ...(extra.plugins ?? []),
      ],
    }
    await database.migrate(options)
    const auth = betterAuth({ ...options, database: database.encrypted(options, {}, { transaction }) })
    return { auth, browser: new AuthBrowser(auth) }
  }
  const accounts = () =>
    database.rows('select id, "providerId", "userId", "accessToken", "refreshToken", "idToken" from account')
  const idOf = async (providerId: string) =>
    (await accounts()).find((account) => account.providerId === providerId)?.id
  async function expectHidden(secrets: readonly string[]) {
    const content = await database.content()
    expect(content).toContain('v3:')
    expect(secrets.length).toBeGreaterThan(0)
    for (const secret of secrets) expect(content).not.toContain(secret)
  }

  it('signs up, signs in again, and refreshes, while no token of the provider is ever in the database', async () => {
    const { browser } = await started()
    expect(await browser.signInWith('provider')).toBe('302 /done')
    const first = provider.last
    const [account] = await accounts()
    for (const field of ['accessToken', 'refreshToken', 'idToken'] as const) {
      expect(account?.[field]).toMatch(TOKEN)
      const context = { column: `account.${field}` }
      expect(
        await database.envelope.decrypt(String(account?.userId), String(account?.[field]), context),
      ).toBe(first[field])
    }

    browser.clear()
    expect(await browser.signInWith('provider')).toBe('302 /done')
    expect(provider.last).not.toEqual(first)
    const given = await browser.post('/get-access-token', { accountId: await idOf('provider') })
    expect(given).toMatchObject({ accessToken: provider.last.accessToken, idToken: provider.last.idToken })
    expect(await accounts()).toHaveLength(1)

    const second = provider.last
    const refreshed = await browser.post('/refresh-token', { accountId: await idOf('provider') })
    expect(provider.refreshedWith).toEqual([second.refreshToken])
    expect(refreshed).toMatchObject({
      accessToken: provider.last.accessToken,
      refreshToken: provider.last.refreshToken,
    })
    expect(await browser.post('/get-access-token', { accountId: await idOf('provider') })).toMatchObject({
      accessToken: provider.last.accessToken,
    })
    await expectHidden(provider.issued)
  })

  it('links and unlinks accounts of a user who signed up with a password', async () => {
    const { browser } = await started()
    const email = 'alice@example.com'
    await browser.post('/sign-up/email', { email, password, name: 'Alice' })
    expect(await browser.link('provider')).toBe('302 /done')
    expect(await browser.link('other')).toBe('302 /done')
    const listed = await browser.get<{ id: string; providerId: string }[]>('/list-accounts')
    expect(listed.map(({ providerId }) => providerId).sort()).toEqual(['credential', 'other', 'provider'])
    expect(await browser.post('/get-access-token', { accountId: await idOf('other') })).toMatchObject({
      accessToken: provider.last.accessToken,
    })
    await expectHidden(provider.issued)

    const { id } = listed.find(({ providerId }) => providerId === 'provider') as { id: string }
    await browser.post('/unlink-account', { accountId: id })
    expect((await accounts()).map(({ providerId }) => providerId).sort()).toEqual(['credential', 'other'])
    await expect(browser.post('/get-access-token', { accountId: id })).rejects.toThrow('ACCOUNT_NOT_FOUND')
  })

  it('shreds a user who is deleted, and nobody else', async () => {
    const { browser } = await started()
    await browser.signInWith('provider')
    const [alice] = await accounts()
    browser.clear()
    provider.becomes('bob')
    await browser.signInWith('provider')
    const bob = (await accounts()).find(({ userId }) => userId !== alice?.userId)
    const open = (account: typeof alice) =>
      database.envelope.decrypt(String(account?.userId), String(account?.accessToken), {
        column: 'account.accessToken',
      })
    expect(await open(alice)).toMatch(/^access-/)

    await browser.post('/delete-user')
    expect(await database.rows('select id from "user"')).toEqual([{ id: alice?.userId }])
    await expect(open(bob)).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    expect(await open(alice)).toMatch(/^access-/)

    browser.clear()
    expect(await browser.signInWith('provider')).toBe('302 /done')
    expect(await accounts()).toHaveLength(2)
  })

  it('keeps what waits to be verified in the pool: states of sign-ins and magic links', async () => {
    const sent: string[] = []
    const plugin = magicLink({ sendMagicLink: async ({ token }) => void sent.push(token) })
    const { browser } = await started({ plugins: [plugin] })
    await browser.post('/sign-in/social', { provider: 'provider', callbackURL: '/done' })
    await browser.post('/sign-in/magic-link', { email: 'carol@example.com', callbackURL: '/done' })
    const values = (await database.rows('select value from verification')).map(({ value }) => String(value))
    expect(values).toHaveLength(2)
    const opened = await Promise.all(
      values.map((value) => database.envelope.pool.decrypt(value, { column: 'verification.value' })),
    )
    expect(opened.join()).toContain('codeVerifier')
    expect(opened.join()).toContain('carol@example.com')
    expect(await database.content()).not.toContain('carol@example.com')
    await browser.get(`/magic-link/verify?token=${sent[0]}`)
    expect(await browser.get('/get-session')).toMatchObject({ user: { email: 'carol@example.com' } })
  })

  it('works with two factors: the secret, and backup codes, each of which is good for one sign-in', async () => {
    const { auth, browser } = await started({ plugins: [twoFactor({ skipVerificationOnEnable: true })] })
    const email = 'alice@example.com'
    await browser.post('/sign-up/email', { email, password, name: 'Alice' })
    const enabled = await browser.post<{ totpURI: string; backupCodes: string[] }>('/two-factor/enable', {
      password,
    })
    const [row] = await database.rows('select secret, "backupCodes", "userId" from "twoFactor"')
    expect([row?.secret, row?.backupCodes]).toEqual([
      expect.stringMatching(TOKEN),
      expect.stringMatching(TOKEN),
    ])
    const { totpURI } = await browser.post<{ totpURI: string }>('/two-factor/get-totp-uri', { password })
    expect(totpURI).toBe(enabled.totpURI)

    const signIn = async (code: string) => {
      browser.clear()
      await browser.post('/sign-in/email', { email, password })
      return browser.post('/two-factor/verify-backup-code', { code })
    }
    const [code] = enabled.backupCodes as [string]
    expect(await signIn(code)).toMatchObject({ user: { email } })
    await expect(signIn(code)).rejects.toThrow('INVALID_BACKUP_CODE')
    // The types of a plugin are lost where the list of plugins is no literal.
    const { viewBackupCodes } = auth.api as unknown as BackupCodes
    const { backupCodes } = await viewBackupCodes({ body: { userId: String(row?.userId) } })
    expect(backupCodes).toEqual(enabled.backupCodes.slice(1))
    await expectHidden([...enabled.backupCodes, new URL(totpURI).searchParams.get('secret') as string])
  })

  it('signs with a private key that only the pool opens', async () => {
    const { browser } = await started({
      plugins: [jwt({ jwks: { disablePrivateKeyEncryption: true } })],
    })
    await browser.post('/sign-up/email', { email: 'alice@example.com', password, name: 'Alice' })
    const { token } = await browser.get<{ token: string }>('/token')
    const again = await browser.get<{ token: string }>('/token')
    const keyId = (jwtToken: string) =>
      JSON.parse(Buffer.from(jwtToken.split('.')[0] as string, 'base64url').toString()).kid
    expect(keyId(token)).toBe(keyId(again.token))
    const [row] = await database.rows('select "privateKey", "publicKey" from jwks')
    expect(row?.privateKey).toMatch(TOKEN)
    const key = await database.envelope.pool.decrypt(String(row?.privateKey), { column: 'jwks.privateKey' })
    expect(JSON.parse(key)).toHaveProperty('d')
    await expectHidden([JSON.parse(key).d])
  })

  it('works on top of the encryption that Better Auth has itself', async () => {
    const { browser } = await started({ account: { encryptOAuthTokens: true } })
    await browser.signInWith('provider')
    const [account] = await accounts()
    const inner = await database.envelope.decrypt(String(account?.userId), String(account?.accessToken), {
      column: 'account.accessToken',
    })
    expect(inner).not.toBe(provider.last.accessToken)
    expect(await browser.post('/get-access-token', { accountId: await idOf('provider') })).toMatchObject({
      accessToken: provider.last.accessToken,
    })
    await expectHidden(provider.issued)
  })
})
