/** The operator's pages. */
import { Hono } from 'hono'
import { JobStatus, OperatorPage, ShreddedPage, ShredPage } from '../pages/operator.js'
import type { AppEnv, Services } from '../services.js'
import { formOf, operatorOnly, signedInTo } from '../session.js'

export function operatorRoutes({ operator }: Services) {
  const routes = new Hono<AppEnv>()
  routes.use(operatorOnly)

  routes.get('/', async (c) => {
    const search = (c.req.query('search') ?? '').trim().slice(0, 200)
    const busy =
      c.req.query('done') === 'busy'
        ? 'Something is running already. Wait for its end, or stop it.'
        : undefined
    return c.html(
      <OperatorPage
        signedIn={signedInTo(c)}
        census={await operator.census()}
        primaryKekId={operator.primaryKekId}
        job={operator.jobs.current}
        check={operator.lastCheck}
        people={await operator.people(search)}
        search={search}
        notice={busy}
      />,
    )
  })

  routes.get('/job', (c) => c.html(<JobStatus job={operator.jobs.current} />))

  const jobs = {
    rewrap: () => operator.startRewrap(),
    check: () => operator.startCheck(),
    erase: () => operator.startErasure(),
  }
  for (const [name, start] of Object.entries(jobs))
    routes.post(`/${name}`, async (c) => {
      await formOf(c)
      return c.redirect(start() ? '/operator#work' : '/operator?done=busy', 303)
    })

  routes.post('/stop', async (c) => {
    await formOf(c)
    operator.jobs.stop()
    return c.redirect('/operator#work', 303)
  })

  routes.get('/people/:id', async (c) => {
    const person = await operator.person(c.req.param('id'))
    if (person === null) return c.notFound()
    return c.html(<ShredPage signedIn={signedInTo(c)} person={person} />)
  })

  routes.post('/people/:id/shred', async (c) => {
    const signedIn = signedInTo(c)
    const { typed = '' } = await formOf(c)
    const person = await operator.person(c.req.param('id'))
    if (person === null) return c.notFound()
    if (typed.trim() !== person.id)
      return c.html(
        <ShredPage signedIn={signedIn} person={person} error="This is not the id. Nothing was erased." />,
        422,
      )
    return c.html(<ShreddedPage signedIn={signedIn} receipt={await operator.shred(person.id)} />)
  })
  return routes
}
