-- Tables and rows as langchain-postgres 0.0.19 wrote them: two collections of PGVector, and a table of PGVectorStore
-- with two metadata columns; dumped by pg_dump.
CREATE TABLE public.items (
    langchain_id uuid NOT NULL,
    content text NOT NULL,
    embedding public.vector(3) NOT NULL,
    year integer,
    section text,
    langchain_metadata json
);
CREATE TABLE public.langchain_pg_collection (
    uuid uuid NOT NULL,
    name character varying NOT NULL,
    cmetadata json
);
CREATE TABLE public.langchain_pg_embedding (
    id character varying NOT NULL,
    collection_id uuid,
    embedding public.vector,
    document character varying,
    cmetadata jsonb
);
INSERT INTO public.items VALUES ('00000000-0000-0000-0000-000000000001', 'alpha', '[1,0,0]', 2024, 'games', '{"more": {"deep": [1, 2.5]}}');
INSERT INTO public.items VALUES ('00000000-0000-0000-0000-000000000002', 'beta', '[0,1,0.5]', 2019, NULL, '{}');
INSERT INTO public.items VALUES ('00000000-0000-0000-0000-000000000003', 'gamma', '[0.25,0.5,1]', NULL, NULL, '{}');
INSERT INTO public.langchain_pg_collection VALUES ('f0604c4f-4332-4129-9e7a-3d7b50ed77de', 'notes', 'null');
INSERT INTO public.langchain_pg_collection VALUES ('b85e13d5-21f3-46a3-87f6-65bd9d45e3c7', 'others', 'null');
INSERT INTO public.langchain_pg_embedding VALUES ('a', 'f0604c4f-4332-4129-9e7a-3d7b50ed77de', '[1,0,0]', 'alpha', '{"tags": ["x", "y"], "year": 2024, "author": {"name": "Ann"}}');
INSERT INTO public.langchain_pg_embedding VALUES ('b', 'f0604c4f-4332-4129-9e7a-3d7b50ed77de', '[0,1,0.5]', 'beta', '{"é": "ü", "none": null, "year": 2019, "score": 0.5}');
INSERT INTO public.langchain_pg_embedding VALUES ('c', 'f0604c4f-4332-4129-9e7a-3d7b50ed77de', '[0.25,0.5,1]', 'gamma', '{}');
INSERT INTO public.langchain_pg_embedding VALUES ('z', 'b85e13d5-21f3-46a3-87f6-65bd9d45e3c7', '[0.5,0.5,0.5]', 'another', '{}');
ALTER TABLE ONLY public.items
    ADD CONSTRAINT items_pkey PRIMARY KEY (langchain_id);
ALTER TABLE ONLY public.langchain_pg_collection
    ADD CONSTRAINT langchain_pg_collection_name_key UNIQUE (name);
ALTER TABLE ONLY public.langchain_pg_collection
    ADD CONSTRAINT langchain_pg_collection_pkey PRIMARY KEY (uuid);
ALTER TABLE ONLY public.langchain_pg_embedding
    ADD CONSTRAINT langchain_pg_embedding_pkey PRIMARY KEY (id);
CREATE INDEX ix_cmetadata_gin ON public.langchain_pg_embedding USING gin (cmetadata jsonb_path_ops);
ALTER TABLE ONLY public.langchain_pg_embedding
    ADD CONSTRAINT langchain_pg_embedding_collection_id_fkey FOREIGN KEY (collection_id) REFERENCES public.langchain_pg_collection(uuid) ON DELETE CASCADE;
