/** Starts the application. */
import { serve } from '@hono/node-server'
import { createAuth } from './auth.js'
import { configFrom, loadDotEnv, SetupError } from './config.js'
import { openDatabase } from './database.js'
import { ApiKeys } from './keys.js'
import { openKeystore } from './keystore.js'
import { Limits } from './limits.js'
import { isKeystoreError, log, logError } from './log.js'
import { mailer } from './mail.js'
import { Operator } from './operator.js'
import { Providers } from './providers.js'
import { createApp } from './web/app.js'

async function start(): Promise<void> {
  loadDotEnv()
  const config = configFrom(process.env)
  // First, so that nothing is made without a master key.
  const keystore = await openKeystore(config, process.env)
  const database = await openDatabase(config.databaseUrl)
  const mail = mailer(config)
  const auth = createAuth(config, database, keystore.envelope, mail)
  const providers = new Providers(config)
  const limits = new Limits(config, database)
  const keys = new ApiKeys(database, keystore.envelope, providers, limits)
  const operator = new Operator(config, database, keystore)
  const services = {
    config,
    database,
    keystore,
    auth,
    providers,
    keys,
    limits,
    operator,
    deliversMail: mail.delivers,
  }
  const app = createApp(services)

  const server = serve({ fetch: app.fetch, hostname: config.host, port: config.port }, ({ port }) => {
    log('started', { url: config.publicUrl.origin, port })
  })

  let isStopping = false
  const stop = async () => {
    if (isStopping) return
    isStopping = true
    const closed = new Promise<void>((resolve) => server.close(() => resolve()))
    if ('closeIdleConnections' in server) server.closeIdleConnections()
    await operator.jobs.close()
    const late = setTimeout(() => {
      if ('closeAllConnections' in server) server.closeAllConnections()
    }, LAST_ANSWERS_MS)
    await closed
    clearTimeout(late)
    await keystore.envelope.close()
    await database.close()
    log('stopped')
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void stop())
}

/** Browsers open connections ahead, on which they have asked for nothing: those are not idle, and would keep the process for a minute. */
const LAST_ANSWERS_MS = 2000

start().catch((error) => {
  // What the library says when it refuses to open names the next command, and holds no secret.
  if (error instanceof SetupError) console.error(error.message)
  else if (isKeystoreError(error))
    console.error(`${error.message}\nIn this folder \`npm run setup\` makes what is missing.`)
  else logError('start.failed', error)
  process.exitCode = 1
})
