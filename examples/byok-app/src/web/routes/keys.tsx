/** A person's keys: list, add, test, replace, delete. */
import { Hono } from 'hono'
import type { z } from 'zod'
import { newKeySchema, type Refusal, replacementSchema } from '../../keys.js'
import type { CheckResult } from '../../providers.js'
import { KeyPage, KeysPage } from '../pages/keys.js'
import type { AppContext, AppEnv, Services } from '../services.js'
import { formOf, signedInOnly, signedInTo } from '../session.js'

type Notice = { readonly kind: 'good' | 'bad'; readonly text: string }

/** Texts by the word in the URL: what a link says is never shown itself. */
const NOTICES: Readonly<Record<string, Notice>> = {
  welcome: { kind: 'good', text: 'Welcome. Add your first key.' },
  added: { kind: 'good', text: 'The key was encrypted and added.' },
  replaced: { kind: 'good', text: 'The key was replaced.' },
  deleted: { kind: 'good', text: 'The key was deleted.' },
  works: { kind: 'good', text: 'The provider takes the key.' },
  refused: { kind: 'bad', text: 'The provider refuses the key. Was it revoked, or copied in part?' },
  limited: { kind: 'bad', text: 'The provider knows the key, and takes no more requests for now.' },
  unreachable: { kind: 'bad', text: 'The provider did not answer. Try again in a minute.' },
  unclear: { kind: 'bad', text: 'The provider answered something that says nothing about the key.' },
  soon: { kind: 'bad', text: 'You tested a key a moment ago. Wait a few seconds.' },
  unreadable: { kind: 'bad', text: 'The key cannot be read. Delete it, and add it again.' },
} satisfies Partial<Record<CheckResult | Refusal, Notice>> & Record<string, Notice>

const REFUSALS: Readonly<Partial<Record<Refusal, string>>> = {
  duplicate: 'You have this key here already.',
  full: 'You have as many keys as can be kept here. Delete one first.',
}

export function keyRoutes(services: Services) {
  const { keys, providers } = services
  const newKey = newKeySchema(providers)
  const routes = new Hono<AppEnv>()
  routes.use(signedInOnly)

  const listPage = async (
    c: AppContext,
    props: Pick<Parameters<typeof KeysPage>[0], 'form' | 'errors' | 'notice'>,
  ) => {
    const signedIn = signedInTo(c)
    const listed = await keys.list(signedIn.userId)
    return c.html(<KeysPage signedIn={signedIn} keys={listed} providers={providers.all} {...props} />)
  }

  routes.get('/', (c) => {
    const done = c.req.query('done') ?? ''
    return listPage(c, { notice: Object.hasOwn(NOTICES, done) ? (NOTICES[done] ?? null) : null })
  })

  routes.post('/', async (c) => {
    const form = await formOf(c)
    const { success, data, error } = newKey.safeParse(form)
    if (!success) {
      c.status(422)
      return listPage(c, { form, errors: messagesOf(error) })
    }
    const added = await keys.add(signedInTo(c).userId, data)
    if (typeof added === 'object') return c.redirect('/keys?done=added', 303)
    c.status(422)
    return listPage(c, { form, errors: { apiKey: REFUSALS[added] } })
  })

  routes.get('/:id', async (c) => {
    const signedIn = signedInTo(c)
    const listed = await keys.find(signedIn.userId, c.req.param('id'))
    if (listed === null) return c.notFound()
    return c.html(<KeyPage signedIn={signedIn} listed={listed} provider={providers.find(listed.provider)} />)
  })

  routes.post('/:id/check', async (c) => {
    await formOf(c)
    const result = await keys.check(signedInTo(c).userId, c.req.param('id'))
    return result === 'missing' ? c.notFound() : c.redirect(`/keys?done=${result}`, 303)
  })

  routes.post('/:id/replace', async (c) => {
    const signedIn = signedInTo(c)
    const { success, data, error } = replacementSchema.safeParse(await formOf(c))
    const id = c.req.param('id')
    const refusal = success ? await keys.replace(signedIn.userId, id, data.apiKey) : 'duplicate'
    if (refusal === null) return c.redirect('/keys?done=replaced', 303)
    const listed = refusal === 'missing' ? null : await keys.find(signedIn.userId, id)
    if (listed === null) return c.notFound()
    const message = success ? REFUSALS[refusal] : messagesOf(error).apiKey
    const provider = providers.find(listed.provider)
    return c.html(<KeyPage signedIn={signedIn} listed={listed} provider={provider} error={message} />, 422)
  })

  routes.post('/:id/delete', async (c) => {
    await formOf(c)
    const removed = await keys.remove(signedInTo(c).userId, c.req.param('id'))
    return removed ? c.redirect('/keys?done=deleted', 303) : c.notFound()
  })
  return routes
}

/** The first message of each field. */
function messagesOf({ issues }: z.ZodError): Record<string, string> {
  return Object.fromEntries(issues.map(({ path, message }) => [String(path[0]), message]).reverse())
}
