/** The operator's page. */
import type { DatedCensusRow, Finding, ShredReceipt } from 'drizzle-keystore'
import type { Job } from '../../jobs.js'
import { numberText } from '../../number-text.js'
import type { CheckReport, ListedPerson } from '../../operator.js'
import type { SignedIn } from '../services.js'
import { AgeChart, byMasterKey, CensusTable, CountChart } from './chart.js'
import { Form, Layout } from './layout.js'
import { Field, Notice, OlderBackups, Receipt, Time } from './parts.js'

export interface OperatorProps {
  readonly signedIn: SignedIn
  readonly census: readonly DatedCensusRow[]
  readonly primaryKekId: string
  readonly job: Job | null
  readonly check: CheckReport | null
  readonly people: readonly ListedPerson[]
  readonly search: string
  readonly notice?: string | undefined
}

export function OperatorPage(props: OperatorProps) {
  const { signedIn, census, primaryKekId, job, check, people, search, notice } = props
  const groups = byMasterKey(census, primaryKekId)
  const isRunning = job?.state === 'running'
  const count = (isCounted: (row: DatedCensusRow) => boolean) =>
    census.filter(isCounted).reduce((sum, row) => sum + row.count, 0)
  const waiting = count(({ kekId, shredded }) => !shredded && kekId !== primaryKekId)
  return (
    <Layout
      title="Operator"
      signedIn={signedIn}
      current="/operator"
      wide
      head={
        <>
          <script src="/static/progress.js" defer />
          {isRunning && (
            <noscript>
              <meta http-equiv="refresh" content="2" />
            </noscript>
          )}
        </>
      }
    >
      <h1>Operator</h1>
      {notice && <Notice kind="bad">{notice}</Notice>}
      <ul class="figures" aria-label="Figures">
        <Figure value={count(({ shredded }) => !shredded)} text="data keys" />
        <Figure value={waiting} text="under an earlier master key" />
        <Figure value={count(({ shredded }) => shredded)} text="erased" />
        <Figure value={groups.length} text="master keys in use" />
      </ul>
      <div class="columns">
        <section class="card" aria-labelledby="count">
          <h2 id="count">By master key</h2>
          <CountChart groups={groups} />
          <Legend groups={groups} />
        </section>
        <section class="card" aria-labelledby="age">
          <h2 id="age">By age</h2>
          <AgeChart groups={groups} />
        </section>
      </div>
      <details class="card">
        <summary>The numbers</summary>
        <CensusTable census={census} />
      </details>
      <section class="card" aria-labelledby="work">
        <h2 id="work">Work on all keys</h2>
        <div class="actions">
          <Form action="/operator/rewrap" csrf={signedIn.csrfToken}>
            <button type="submit" disabled={isRunning}>
              Rewrap under the current master key
            </button>
          </Form>
          <Form action="/operator/check" csrf={signedIn.csrfToken}>
            <button class="secondary" type="submit" disabled={isRunning}>
              Check all keys
            </button>
          </Form>
          <Form action="/operator/erase" csrf={signedIn.csrfToken}>
            <button class="secondary" type="submit" disabled={isRunning}>
              Finish erasures
            </button>
          </Form>
          {isRunning && (
            <Form action="/operator/stop" csrf={signedIn.csrfToken}>
              <button class="secondary" type="submit">
                Stop
              </button>
            </Form>
          )}
        </div>
        <section id="job" aria-label="Progress" data-running={isRunning ? '' : undefined}>
          <JobStatus job={job} />
        </section>
      </section>
      <Findings check={check} />
      <People people={people} search={search} />
    </Layout>
  )
}

function Figure({ value, text }: { value: number; text: string }) {
  return (
    <li>
      <strong>{numberText(value)}</strong> {text}
    </li>
  )
}

function Legend({ groups }: { groups: ReturnType<typeof byMasterKey> }) {
  const versions = new Set(
    groups.flatMap(({ versions }) => versions.map(({ version }) => Math.min(version, 4))),
  )
  return (
    <p class="legend">
      {Array.from(versions)
        .sort()
        .map((version) => (
          <span>
            <svg viewBox="0 0 12 12" aria-hidden="true">
              <rect class={`shade-${version}`} width="12" height="12" rx="3" />
            </svg>
            version {version === 4 ? '4 and later' : version}
          </span>
        ))}
    </p>
  )
}

const KINDS = { check: 'Check of all keys', rewrap: 'Rewrap', erase: 'The end of erasures' } as const
const STATES = { running: 'is running', done: 'is done', stopped: 'was stopped', failed: 'failed' } as const

/** Also sent alone: progress.js puts it in place while a job runs. */
export function JobStatus({ job }: { job: Job | null }) {
  if (job === null) return <p class="hint">Nothing was started since this process began.</p>
  const { progress } = job
  return (
    <div class={`job ${job.state}`} data-state={job.state}>
      <p>
        <strong>
          {KINDS[job.kind]} {STATES[job.state]}
        </strong>{' '}
        · started <Time at={job.startedAt} />
      </p>
      {job.state === 'running' && progress === null && <p>It begins.</p>}
      {progress !== null && (progress.total > 0 || job.state === 'running') && (
        <p class="progress">
          <label for="progress">
            {progress.phase}: {numberText(progress.done)} of {numberText(progress.total)}
          </label>
          <progress id="progress" value={progress.done} max={Math.max(progress.total, 1)} />
        </p>
      )}
      {job.outcome.map((sentence) => (
        <p>{sentence}</p>
      ))}
    </div>
  )
}

const SEVERITIES: Readonly<Record<Finding['severity'], string>> = { error: 'bad', warning: 'warn', note: '' }

function Findings({ check }: { check: CheckReport | null }) {
  return (
    <section class="card" aria-labelledby="findings">
      <h2 id="findings">Findings</h2>
      {check === null ? (
        <p class="hint">
          “Check all keys” opens every key and looks at the database’s settings. It changes nothing.
        </p>
      ) : (
        <>
          <p>
            Checked <Time at={check.at} />: {numberText(check.rows)} rows.{' '}
            {check.findings.length === 0 && 'Nothing is wrong.'}
          </p>
          {check.findings.length > 0 && (
            <ul class="findings">
              {check.findings.slice(0, 50).map(({ severity, kind, reason, userId }) => (
                <li>
                  <span class={`badge ${SEVERITIES[severity]}`}>{severity}</span>
                  <span>
                    <code>{kind}</code>
                    {userId && (
                      <>
                        {' '}
                        of <code>{userId}</code>
                      </>
                    )}
                    : {reason}
                  </span>
                </li>
              ))}
            </ul>
          )}
          {check.findings.length > 50 && (
            <p>And {numberText(check.findings.length - 50)} more: run npx keystore doctor.</p>
          )}
        </>
      )}
    </section>
  )
}

function People({ people, search }: { people: readonly ListedPerson[]; search: string }) {
  return (
    <section class="card" aria-labelledby="people">
      <h2 id="people">People</h2>
      <form method="get" action="/operator" class="search">
        <Field name="search" label="Address or id" value={search} required={false} />
        <button class="secondary" type="submit">
          Search
        </button>
      </form>
      {people.length === 0 ? (
        <p class="empty">Nobody is called so.</p>
      ) : (
        <section class="scroll" aria-label="Table of people" tabindex={0}>
          <table>
            <thead>
              <tr>
                <th scope="col">Address</th>
                <th scope="col">Joined</th>
                <th scope="col">Data key</th>
                <th scope="col">
                  <span class="sr">Action</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {people.map((person) => (
                <tr>
                  <td>{person.email}</td>
                  <td>
                    <Time at={person.createdAt} />
                  </td>
                  <td>
                    <KeyState person={person} />
                  </td>
                  <td class="end">
                    <a
                      href={`/operator/people/${encodeURIComponent(person.id)}`}
                      aria-label={`Shred ${person.email}`}
                    >
                      Shred…
                    </a>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
    </section>
  )
}

function KeyState({ person: { key } }: { person: ListedPerson }) {
  if (key === null) return <span class="badge">none yet</span>
  if (key.shreddedAt !== null) return <span class="badge bad">erased</span>
  return <span class="badge good">version {key.version}</span>
}

export function ShredPage({
  signedIn,
  person,
  error,
}: {
  signedIn: SignedIn
  person: ListedPerson
  error?: string
}) {
  return (
    <Layout title="Shred a user" signedIn={signedIn} current="/operator">
      <p class="back">
        <a href="/operator">Operator</a>
      </p>
      <section class="card danger">
        <h1>Shred a user</h1>
        {error && <Notice kind="bad">{error}</Notice>}
        <p>
          The data key of <strong>{person.email}</strong> is erased, and their sessions end. What was
          encrypted for this person can no longer be read. Nobody can undo this.
        </p>
        <OlderBackups />
        <dl>
          <dt>User id</dt>
          <dd>
            <code class="block">{person.id}</code>
          </dd>
          <dt>Data key</dt>
          <dd>
            <KeyState person={person} />
          </dd>
        </dl>
        <Form action={`/operator/people/${encodeURIComponent(person.id)}/shred`} csrf={signedIn.csrfToken}>
          <Field name="typed" label="To confirm, type the user id" />
          <button class="destructive" type="submit">
            Erase the data key
          </button>
        </Form>
      </section>
    </Layout>
  )
}

export function ShreddedPage({ signedIn, receipt }: { signedIn: SignedIn; receipt: ShredReceipt }) {
  return (
    <Layout title="The data key was erased" signedIn={signedIn} current="/operator">
      <section class="card">
        <h1>The data key was erased</h1>
        <Receipt receipt={receipt} forOperator />
        <p>
          <a href="/operator">Back to the operator’s page</a>
        </p>
      </section>
    </Layout>
  )
}
