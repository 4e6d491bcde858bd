/** A person's account: export, and deletion with its receipt. */
import { Hono } from 'hono'
import { exportOf, hasPassword, withReceipt } from '../../account.js'
import { CONFIRM_LIMIT } from '../../limits.js'
import { type AuthAnswer, callAuth, tooMany } from '../auth-forms.js'
import { AccountPage, DeleteAccountPage, DeletedPage } from '../pages/account.js'
import type { AppEnv, Services } from '../services.js'
import { formOf, signedInOnly, signedInTo } from '../session.js'

const NOTICES: Readonly<Record<string, string>> = {
  confirmed: 'Your address is confirmed.',
  sent: 'The mail is on its way. Open the link in it.',
}

export function accountRoutes(services: Services) {
  const { database, keys, limits } = services
  const routes = new Hono<AppEnv>()
  routes.use(signedInOnly)

  routes.get('/', (c) => {
    const done = c.req.query('done') ?? ''
    // The link of the mail leads here with an error if it is too old.
    const failed = c.req.query('error') !== undefined
    const notice = failed
      ? 'This link does not work any more. Send the mail again.'
      : Object.hasOwn(NOTICES, done)
        ? NOTICES[done]
        : undefined
    return c.html(<AccountPage signedIn={signedInTo(c)} notice={notice} />)
  })

  routes.post('/confirm', async (c) => {
    await formOf(c)
    const signedIn = signedInTo(c)
    const { userId, email } = signedIn
    const wait = await limits.take(CONFIRM_LIMIT, userId)
    if (wait !== null) {
      c.header('retry-after', String(wait))
      return c.html(<AccountPage signedIn={signedIn} notice={tooMany({ retryAfter: wait })} />, 429)
    }
    await callAuth(c, services, '/send-verification-email', { email, callbackURL: '/account?done=confirmed' })
    return c.redirect('/account?done=sent', 303)
  })

  routes.get('/export', async (c) => {
    const content = await exportOf(database, keys, signedInTo(c).userId)
    c.header('content-disposition', 'attachment; filename="keyring-export.json"')
    c.header('content-type', 'application/json; charset=utf-8')
    return c.body(`${JSON.stringify(content, null, 2)}\n`)
  })

  routes.get('/delete', async (c) => {
    const signedIn = signedInTo(c)
    const withPassword = await hasPassword(database, signedIn.userId)
    return c.html(<DeleteAccountPage signedIn={signedIn} withPassword={withPassword} />)
  })

  routes.post('/delete', async (c) => {
    const signedIn = signedInTo(c)
    const { email = '', password = '' } = await formOf(c)
    const withPassword = await hasPassword(database, signedIn.userId)
    const again = (error: string, status: 422 | 429) =>
      c.html(<DeleteAccountPage signedIn={signedIn} withPassword={withPassword} error={error} />, status)
    if (email.trim().toLowerCase() !== signedIn.email.toLowerCase())
      return again('This is not your address.', 422)
    if (withPassword && password === '') return again('Type your password too.', 422)
    const { result, receipt } = await withReceipt(signedIn.userId, () =>
      callAuth(c, services, '/delete-user', withPassword ? { password } : {}),
    )
    if (!result.ok) return again(deleteError(result), result.status === 429 ? 429 : 422)
    return c.html(<DeletedPage receipt={receipt} />)
  })
  return routes
}

function deleteError(answer: AuthAnswer): string {
  const { status, code } = answer
  if (status === 429) return tooMany(answer)
  if (code === 'INVALID_PASSWORD') return 'The password is not right.'
  if (code.startsWith('SESSION')) return 'You signed in too long ago. Sign out, sign in again, and come back.'
  return 'Your account was not deleted. Try again in a minute.'
}
