/** Signing up, in and out, and a forgotten password. */
import { Hono } from 'hono'
import { personSchema } from '../../account.js'
import { MIN_PASSWORD_LENGTH, OAUTH_PROVIDER } from '../../auth.js'
import { SIGN_IN_LIMIT } from '../../limits.js'
import { type AuthAnswer, callAuth, tooMany } from '../auth-forms.js'
import {
  ContinuePage,
  ForgotPage,
  MessagePage,
  NewPasswordPage,
  SignInPage,
  SignUpPage,
} from '../pages/sign-in.js'
import type { AppEnv, Services } from '../services.js'
import { formOf } from '../session.js'

const AFTER_CONFIRMATION = '/account?done=confirmed'

export function signInRoutes(services: Services) {
  const { config, deliversMail, limits } = services
  const oauthName = config.oauth?.name ?? null
  const routes = new Hono<AppEnv>()

  routes.get('/sign-in', (c) => {
    if (c.get('signedIn') !== null) return c.redirect('/keys', 303)
    const failure = c.req.query('error')
    const error =
      failure === undefined
        ? undefined
        : failure === 'link'
          ? 'This link does not work any more. Sign in to get a new one.'
          : 'Signing in did not work. If you have an account with this address already, sign in with its password.'
    const notice =
      c.req.query('done') === 'password' ? 'Your password was changed. Sign in with it.' : undefined
    return c.html(<SignInPage oauthName={oauthName} error={error} notice={notice} />)
  })

  routes.post('/sign-in', async (c) => {
    const { email: typed = '', password = '' } = await formOf(c)
    const email = typed.trim()
    const wait = await limits.take(SIGN_IN_LIMIT, email.toLowerCase())
    if (wait !== null) {
      c.header('retry-after', String(wait))
      const error = tooMany({ retryAfter: wait })
      return c.html(<SignInPage oauthName={oauthName} email={email} error={error} />, 429)
    }
    const body = { email, password, callbackURL: AFTER_CONFIRMATION }
    const answer = await callAuth(c, services, '/sign-in/email', body)
    if (answer.ok) return c.redirect('/keys', 303)
    if (answer.code === 'EMAIL_NOT_VERIFIED') return c.html(<ConfirmFirst />, 403)
    c.status(answer.status === 429 ? 429 : 401)
    if (answer.status === 429) c.header('retry-after', String(answer.retryAfter))
    return c.html(<SignInPage oauthName={oauthName} email={email} error={signInError(answer)} />)
  })

  routes.post('/sign-in/oauth', async (c) => {
    await formOf(c)
    const answer = await callAuth(c, services, '/sign-in/social', {
      provider: OAUTH_PROVIDER,
      callbackURL: '/keys',
      errorCallbackURL: '/sign-in',
    })
    // A page that leads on, and no redirect: the policy lets forms end at this site only.
    if (answer.ok && answer.url !== null)
      return c.html(<ContinuePage url={answer.url} name={oauthName ?? ''} />)
    const limited = answer.status === 429
    const error = limited ? tooMany(answer) : 'This does not work at the moment. Try again in a minute.'
    return c.html(<SignInPage oauthName={oauthName} error={error} />, limited ? 429 : 502)
  })

  routes.get('/sign-up', (c) => {
    if (c.get('signedIn') !== null) return c.redirect('/keys', 303)
    return c.html(<SignUpPage oauthName={oauthName} />)
  })

  routes.post('/sign-up', async (c) => {
    const { name, email, password = '' } = await formOf(c)
    const again = (error: string | undefined, status: 422 | 429) =>
      c.html(<SignUpPage oauthName={oauthName} {...{ name, email, error }} />, status)
    const person = personSchema.safeParse({ name, email })
    if (!person.success) return again(person.error.issues[0]?.message, 422)
    const body = { ...person.data, password, callbackURL: AFTER_CONFIRMATION }
    const answer = await callAuth(c, services, '/sign-up/email', body)
    if (answer.ok) return deliversMail ? c.html(<ConfirmFirst />) : c.redirect('/keys?done=welcome', 303)
    return again(signUpError(answer), answer.status === 429 ? 429 : 422)
  })

  routes.post('/sign-out', async (c) => {
    await formOf(c)
    await callAuth(c, services, '/sign-out', {})
    return c.redirect('/sign-in', 303)
  })

  routes.get('/forgot-password', (c) => c.html(<ForgotPage />))

  routes.post('/forgot-password', async (c) => {
    const { email = '' } = await formOf(c)
    const answer = await callAuth(c, services, '/request-password-reset', { email: email.trim() })
    if (answer.status === 429) return c.html(<ForgotPage error={tooMany(answer)} />, 429)
    // The same answer whether there is such an account or not.
    return c.html(
      <MessagePage
        title="Look into your mail"
        text="If there is an account with this address, a mail with a link is on its way. The link works for an hour."
      />,
    )
  })

  routes.get('/new-password', (c) => c.html(<NewPasswordPage token={c.req.query('token') ?? ''} />))

  routes.post('/new-password', async (c) => {
    const { token = '', password = '' } = await formOf(c)
    const answer = await callAuth(c, services, '/reset-password', { token, newPassword: password })
    if (answer.ok) return c.redirect('/sign-in?done=password', 303)
    const error =
      answer.status === 429
        ? tooMany(answer)
        : (passwordError(answer) ?? 'This link does not work any more. Ask for a new one.')
    return c.html(<NewPasswordPage token={token} error={error} />, answer.status === 429 ? 429 : 422)
  })
  return routes
}

function ConfirmFirst() {
  return (
    <MessagePage
      title="Confirm your address"
      text="A mail with a link is on its way to you. Open the link, then sign in."
    />
  )
}

function signInError(answer: AuthAnswer): string {
  if (answer.status === 429) return tooMany(answer)
  return 'The e-mail address or the password is not right.'
}

function signUpError(answer: AuthAnswer): string {
  if (answer.status === 429) return tooMany(answer)
  return passwordError(answer) ?? 'This address cannot be used. If it is yours, sign in instead.'
}

function passwordError({ code }: AuthAnswer): string | null {
  if (code === 'PASSWORD_TOO_SHORT') return `A password has at least ${MIN_PASSWORD_LENGTH} characters.`
  if (code === 'PASSWORD_TOO_LONG') return 'A password has at most 128 characters.'
  return null
}
