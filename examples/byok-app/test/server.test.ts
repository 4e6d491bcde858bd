/** The process of the application. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { expect, it } from 'vitest'
import { startApplication } from './support/application.js'

it('ends soon after SIGTERM, though a browser has opened a connection ahead', async () => {
  const app = await startApplication('sqlite')
  const socket = connect(Number(new URL(app.origin).port), '127.0.0.1')
  try {
    await once(socket, 'connect')
    socket.on('error', () => undefined)
    const begun = performance.now()
    await app.restart()
    expect(performance.now() - begun).toBeLessThan(20_000)
  } finally {
    socket.destroy()
    await app.remove()
  }
})
