/** What is used of Better Auth's database adapters, which are taken by their shape. */

export type Row = Readonly<Record<string, unknown>>

/** Better Auth's `Where`. */
export interface Condition {
  readonly field: string
  readonly value: unknown
  readonly operator?: string | undefined
  readonly connector?: string | undefined
  readonly mode?: string | undefined
}

/** What methods are called with. Properties that are not named here are passed on. */
export interface Call {
  readonly model: string
}
export interface WhereCall extends Call {
  readonly where?: Condition[] | undefined
}
export interface FindCall extends WhereCall {
  readonly select?: string[] | undefined
  readonly join?: Readonly<Record<string, unknown>> | undefined
  readonly sortBy?: { readonly field: string } | undefined
  readonly limit?: number | undefined
}
export interface CreateCall extends Call {
  readonly data: Row
  readonly select?: string[] | undefined
}
export interface UpdateCall extends WhereCall {
  readonly update: Row
}
export interface IncrementCall extends WhereCall {
  readonly increment: Readonly<Record<string, number>>
  readonly set?: Row | undefined
}

/** Better Auth's `DBAdapter`. */
export interface AuthAdapter {
  readonly options?: { readonly adapterConfig?: { readonly usePlural?: boolean | undefined } } | undefined
  create(call: CreateCall): Promise<Row>
  findOne(call: FindCall): Promise<Row | null>
  findMany(call: FindCall): Promise<readonly Row[]>
  count(call: WhereCall): Promise<number>
  update(call: UpdateCall): Promise<Row | null>
  updateMany(call: UpdateCall): Promise<number>
  delete(call: WhereCall): Promise<void>
  deleteMany(call: WhereCall): Promise<number>
  consumeOne(call: WhereCall): Promise<Row | null>
  incrementOne(call: IncrementCall): Promise<Row | null>
  transaction<T>(work: (adapter: AuthAdapter) => Promise<T>): Promise<T>
}
