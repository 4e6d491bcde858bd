/** All routes, and what is around them. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Hono } from 'hono'
import { HTTPException } from 'hono/http-exception'
import { isKeystoreError, logError } from '../log.js'
import { AuthUnavailable, authCallbacks } from './auth-forms.js'
import { ErrorPage } from './pages/error.js'
import { accountRoutes } from './routes/account.js'
import { keyRoutes } from './routes/keys.js'
import { operatorRoutes } from './routes/operator.js'
import { signInRoutes } from './routes/sign-in.js'
import { formsOnly, noStore, ownForms, requestLog, securityHeaders, smallBodies } from './security.js'
import type { AppContext, AppEnv, Services } from './services.js'
import { sessions } from './session.js'

export function createApp(services: Services): Hono<AppEnv> {
  const { config, database, keystore } = services
  const app = new Hono<AppEnv>()
  app.use(requestLog, securityHeaders(config), noStore)

  for (const [name, file] of Object.entries(staticFiles()))
    app.get(`/static/${name}`, (c) => {
      c.header('content-type', file.type)
      c.header('cache-control', 'public, max-age=3600')
      return c.body(file.content)
    })

  app.get('/health', async (c) => {
    try {
      await database.ping()
      await keystore.store.getActive(['']) // the pool's key; that there is none is an answer too
      return c.text('ok')
    } catch (error) {
      logError('health.failed', error)
      return c.text('The database does not answer.', 503)
    }
  })

  app.use(ownForms(config), formsOnly, smallBodies)
  app.route('/api/auth', authCallbacks(services))
  app.use(sessions(services))
  app.get('/', (c) => c.redirect(c.get('signedIn') === null ? '/sign-in' : '/keys', 303))
  app.route('/', signInRoutes(services))
  app.route('/keys', keyRoutes(services))
  app.route('/account', accountRoutes(services))
  app.route('/operator', operatorRoutes(services))

  app.notFound((c) =>
    c.html(
      <ErrorPage
        title="There is no such page"
        text="Or it is not yours."
        signedIn={c.get('signedIn') ?? null}
      />,
      404,
    ),
  )
  app.onError((error, c) => errorPage(error, c as AppContext))
  return app
}

function errorPage(error: Error, c: AppContext) {
  const signedIn = c.get('signedIn') ?? null
  if (error instanceof HTTPException) {
    const text = error.message || 'A form of another site is not taken.'
    return c.html(<ErrorPage title="This was refused" text={text} signedIn={signedIn} />, error.status)
  }
  if (isKeystoreError(error) && error.code === 'ERR_KEY_SHREDDED') {
    const text =
      'Your data key was erased, and nothing that was stored under it can be read any more. You can delete your account.'
    return c.html(<ErrorPage title="Your data was erased" text={text} signedIn={signedIn} />, 410)
  }
  const text = 'Try again in a minute. If it goes on, tell who runs this.'
  if (error instanceof AuthUnavailable) {
    logError('auth.failed', error.cause ?? error)
    return c.html(<ErrorPage title="This does not work at the moment" text={text} signedIn={signedIn} />, 503)
  }
  logError('request.failed', error)
  if (isKeystoreError(error) && error.retryable)
    return c.html(<ErrorPage title="The keys cannot be reached" text={text} signedIn={signedIn} />, 503)
  return c.html(<ErrorPage title="Something went wrong" text={text} signedIn={signedIn} />, 500)
}

function staticFiles(): Record<string, { content: string; type: string }> {
  const read = (name: string, type: string) => ({
    content: readFileSync(join(import.meta.dirname, '..', '..', 'public', name), 'utf8'),
    type: `${type}; charset=utf-8`,
  })
  return {
    'style.css': read('style.css', 'text/css'),
    'progress.js': read('progress.js', 'text/javascript'),
    'icon.svg': read('icon.svg', 'image/svg+xml'),
  }
}
