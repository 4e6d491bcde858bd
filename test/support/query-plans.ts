/** The plans by which Postgres executes statements of the library. */
import pg from 'pg'

export interface PlanNode {
  readonly 'Node Type': string
  readonly 'Relation Name'?: string
  readonly 'Subplan Name'?: string
  readonly 'Plan Rows'?: number
  readonly 'Actual Rows'?: number
  readonly 'Actual Loops'?: number
  readonly 'Rows Removed by Filter'?: number
  readonly Plans?: readonly PlanNode[]
}

export interface RecordedPool {
  readonly pool: pg.Pool
  /** Every query of the pool in order, with its values. A test may empty it. */
  readonly sent: pg.QueryConfig[]
}

export function recordedPool(url: string): RecordedPool {
  const pool = new pg.Pool({ connectionString: url })
  const sent: pg.QueryConfig[] = []
  pool.on('connect', (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown
    client.query = ((config: pg.QueryConfig, ...rest: unknown[]) => {
      sent.push({ ...config, values: rest[0] as unknown[] })
      return query(config, ...rest)
    }) as typeof client.query
  })
  return { pool, sent }
}

/** Executes a statement. @returns the nodes of its plan, with what each of them did */
export async function planOf(pool: pg.Pool, { text, values = [] }: pg.QueryConfig): Promise<PlanNode[]> {
  const { rows } = await pool.query({ text: `explain (analyze, format json) ${text}`, values: [] }, values)
  const flatten = (plan: PlanNode): PlanNode[] => [plan, ...(plan.Plans ?? []).flatMap(flatten)]
  return flatten(rows[0]['QUERY PLAN'][0].Plan)
}

/** How many rows a node has read, those that it left out included. */
export function rowsRead(node: PlanNode): number {
  const rows = (node['Actual Rows'] ?? 0) + (node['Rows Removed by Filter'] ?? 0)
  return rows * (node['Actual Loops'] ?? 1)
}

/** How many rows a statement has locked, each as often as it was. */
export async function rowsLocked(pool: pg.Pool, statement: pg.QueryConfig | undefined): Promise<number> {
  const plan = statement === undefined ? [] : await planOf(pool, statement)
  const locking = plan.filter((node) => node['Node Type'] === 'LockRows')
  return locking.reduce((rows, node) => rows + rowsRead(node), 0)
}

/** Leaves a table empty, with the statistics of one that has as many pages as 3,000 rows take, and a single row. */
export async function analyzeNearlyEmpty(
  pool: pg.Pool,
  table: string,
  insert: (rows: number) => Promise<unknown>,
): Promise<void> {
  await pool.query({ text: `alter table ${table} set (autovacuum_enabled = off)` })
  await insert(3000)
  await pool.query({ text: `delete from ${table} where ctid <> '(0,1)'` })
  await pool.query({ text: `analyze ${table}` })
  await pool.query({ text: `delete from ${table}` })
}
